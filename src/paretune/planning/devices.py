"""What a device can do: by its data sheet and stated shares of it, or as measured on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from paretune.core.errors import ConfigError, suggest

HERE = "here"
"""This machine, which is measured (:mod:`paretune.planning.calibrate`)."""

MATMUL_SHARE = 0.6
ATTENTION_SHARE = 0.2
TRAFFIC_SHARE = 0.7
SHARDED_SHARE = 0.7
LAUNCH = 8e-6
"""Assumed of accelerators, none of which was measured: the share of the data sheet's FLOP/s that large products reach, and
that attention over short texts does; the share of its bandwidth; what each device of several keeps of these while layers
are split over them; and the seconds from one operation of an eager PyTorch program to the next."""


@dataclass(frozen=True)
class Rates:
    """What is reached in one number format.

    Attributes:
        matmul: FLOP/s of products of many tokens with a weight.
        attention: FLOP/s of attention over short texts, forward and backward.
        traffic: Bytes/s read and written by operations that are no product (norms, activations, casts).
        stream: Bytes/s at which parameters and cached keys are read when each is used for few tokens: decoding.
        launch: Seconds that each operation takes at least.
        decoding: FLOP/s of attention of one token per row over its cached keys and values.
    """

    matmul: float
    attention: float
    traffic: float
    stream: float
    launch: float
    decoding: float


@dataclass(frozen=True)
class Device:
    """A device, or several of a kind that hold one model together.

    Attributes:
        name: Name by which it is requested.
        kind: name of one of them.
        title: Name for people.
        memory: Bytes that all hold together.
        count: Number of devices.
        rates: Number format -> rates that all reach together.
        host: Whether its memory is the machine's, which also holds libraries and files.
        assumptions: Origin of its figures.
    """

    name: str
    kind: str
    title: str
    memory: float
    count: int
    rates: Mapping[str, Rates]
    host: bool
    assumptions: str


def _sheet(name: str, title: str, bf16: float, fp32: float, bandwidth: float, gigabytes: float) -> Device:
    """Return a device by its data sheet: dense TFLOP/s of bfloat16 and float32 products, GB/s, GB."""

    def rates(teraflops: float) -> Rates:
        peak, speed = teraflops * 1e12, bandwidth * 1e9 * TRAFFIC_SHARE
        # Decoding reads keys and values once; their arithmetic is the least of it.
        return Rates(
            peak * MATMUL_SHARE, peak * ATTENTION_SHARE, speed, speed, LAUNCH, peak * ATTENTION_SHARE
        )

    assumptions = (
        f"data sheet: {bf16:g} TFLOP/s in bfloat16 (dense), {fp32:g} in float32, {bandwidth:g} GB/s, {gigabytes:g} GB; assumed, "
        f"not measured: {MATMUL_SHARE:.0%} of the FLOP/s in large products, {ATTENTION_SHARE:.0%} in attention, "
        f"{TRAFFIC_SHARE:.0%} of the bandwidth, {LAUNCH * 1e6:g} microseconds per operation"
    )
    return Device(
        name,
        name,
        title,
        gigabytes * 1e9,
        1,
        {"bfloat16": rates(bf16), "float32": rates(fp32)},
        False,
        assumptions,
    )


KNOWN: dict[str, Device] = {
    device.name: device
    for device in (
        # Float32 without TF32, which PyTorch does not use by default.
        _sheet("b200", "NVIDIA B200 SXM, 180 GB", 2250, 75, 7700, 180),
        _sheet("h200", "NVIDIA H200 SXM, 141 GB", 989.4, 66.9, 4800, 141),
        _sheet("h100", "NVIDIA H100 SXM, 80 GB", 989.4, 66.9, 3350, 80),
        _sheet("a100", "NVIDIA A100 SXM, 80 GB", 312, 19.5, 2039, 80),
        _sheet("a100-40gb", "NVIDIA A100 SXM, 40 GB", 312, 19.5, 1555, 40),
        _sheet("l40s", "NVIDIA L40S, 48 GB", 362, 91.6, 864, 48),
        _sheet("a6000", "NVIDIA RTX A6000, 48 GB", 154.8, 38.7, 768, 48),
        _sheet("rtx5090", "NVIDIA GeForce RTX 5090, 32 GB", 209.5, 104.8, 1792, 32),
        _sheet("rtx4090", "NVIDIA GeForce RTX 4090, 24 GB", 165.2, 82.6, 1008, 24),
        _sheet("rtx3090", "NVIDIA GeForce RTX 3090, 24 GB", 71, 35.6, 936, 24),
        _sheet("l4", "NVIDIA L4, 24 GB", 121, 30.3, 300, 24),
    )
}
"""Name -> device by its maker's data sheet; ``8xh100`` is eight of them."""


def device_of(name: str) -> Device:
    """Return a device that is known by name, or several: ``h100``, ``8xh100``.

    Raises:
        ConfigError: Not known; the message lists what is.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?(.+)", name.strip().lower())
    count, kind = (int(match[1] or 1), match[2]) if match else (1, name)
    if kind not in KNOWN:
        raise ConfigError(
            f"unknown device {name!r}; {suggest(kind, [HERE, *KNOWN])} ({HERE} is this machine; a number in front asks for "
            "several, such as 8xh100)"
        )
    return several(KNOWN[kind], count)


def several(device: Device, count: int) -> Device:
    """Return ``count`` devices that hold one model together, its layers split over them."""
    if count == 1:
        return device
    factor = count * SHARDED_SHARE
    rates = {
        dtype: Rates(
            one.matmul * factor,
            one.attention * factor,
            one.traffic * factor,
            one.stream * factor,
            one.launch,
            one.decoding * factor,
        )
        for dtype, one in device.rates.items()
    }
    return replace(
        device,
        name=f"{count}x{device.kind}",
        title=f"{count} x {device.title}",
        memory=device.memory * count,
        count=count,
        rates=rates,
        assumptions=f"{device.assumptions}; {count} of them split every matrix and reach {SHARDED_SHARE:.0%} of {count} times one. "
        "Paretune itself runs on one device: this is what a run over several would take",
    )
