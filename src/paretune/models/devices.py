"""Torch devices by name: which there are on this machine, in words a user can act on."""

from __future__ import annotations

import resource
from functools import cache

import psutil
import torch
from torch import Tensor

from paretune.core.errors import ModelError, suggest

KINDS = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that hold numbers and run every operation that is needed."""


def device_named(name: str) -> torch.device:
    """Return the device of a name such as ``cuda:1``, whether this machine has it or not.

    Raises:
        ModelError: No device is called so.
    """
    kind, colon, number = name.partition(":") if isinstance(name, str) else (str(name), "", "")
    if kind not in KINDS or (colon and not (number.isascii() and number.isdigit() and int(number) < 1000)):
        known = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps", "": "cpu"}.get(kind, kind)
        raise ModelError(
            f"device {name!r} is not known; {suggest(known, KINDS)}, or one by number such as cuda:1"
        )
    return torch.device(name)


def present(name: str | None) -> torch.device:
    """Return the device of a name, or for None an accelerator where there is one, else the CPU.

    Raises:
        ModelError: No device is called so, or this machine has none.
    """
    here = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return here or torch.device("cpu")
    device = device_named(name)
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if here is not None and here.type == device.type else 0
    if count <= (device.index or 0):
        found = f"{count} of this kind" if count else (here.type if here else "the CPU alone")
        raise ModelError(
            f"device {name!r} is not on this machine, which has {found}; leave device out to use what there is, or set device: cpu"
        )
    return device


@cache
def computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether ``device`` multiplies matrices of the number format ``dtype``; natively or not."""
    try:
        ones = torch.ones(2, 2, dtype=dtype, device=device)
        return (ones @ ones).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    except (RuntimeError, TypeError):  # what Apple's devices say of fp64
        return False


def native_bfloat16(device: torch.device) -> bool:
    """Return whether ``device`` computes bfloat16 in hardware, as far as that can be known."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_tile") or capabilities.get("avx512_bf16"))
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return computes(device, torch.bfloat16)


def double_device(device: torch.device) -> torch.device:
    """Return where numbers of ``device`` are computed with in fp64: there, or on the CPU where it has no fp64 (Apple's)."""
    return device if computes(device, torch.float64) else torch.device("cpu")


def double(values: Tensor) -> Tensor:
    """Return ``values`` in fp64, on the device of :func:`double_device`."""
    return values.to(double_device(values.device)).double()


def memory_of(device: torch.device) -> float:
    """Return the bytes of memory that a process can have on a device; Apple's is the machine's own."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    if device.type == "xpu":
        return float(torch.xpu.get_device_properties(device).total_memory)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    total = float(psutil.virtual_memory().total)
    return total if limit == resource.RLIM_INFINITY else min(total, float(limit))
