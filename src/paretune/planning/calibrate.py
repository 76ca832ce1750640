"""What this machine reaches, measured on a small random Llama by the code that a run uses; a few seconds, once.

Nothing here is a benchmark's best: sizes are those of the run's own steps, and the median of a few rounds is taken.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from statistics import median

import psutil
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from paretune.core.errors import ParetuneError
from paretune.core.files import cache_folder, fingerprint, read_json, write_json
from paretune.core.progress import say
from paretune.models.devices import memory_of
from paretune.models.frozen_linear import FrozenLinear
from paretune.models.kv_cache import given_cache, growing_cache
from paretune.models.language_model import computing
from paretune.models.packing import pack, packed_logps, prepare
from paretune.models.steering import Steering
from paretune.planning.cost import Model, Passes, attention_flops, operations, traffic
from paretune.planning.devices import HERE, Device, Rates
from paretune.planning.shapes import Shape

TARGETS, RANK = ("q_proj", "k_proj", "v_proj", "o_proj"), 16
ROUNDS = 9
LEAST_ROUNDS, LONGEST = 3, 4.0
"""Rounds that are always made, and the seconds after which no further one begins: beside other programs a round may take long."""
AGAIN = "delete the file to measure again"
BUSY = 0.25
"""Share of the processors in the use of others from which on a measurement says little of the machine."""


def here(dtype: str, device: str | None) -> tuple[Device, str]:
    """Return this machine as measured in a run's number format, and that format; measured once, then read from the cache.

    What is measured while others use the machine is not kept for other commands: the next one measures again.

    Args:
        dtype, device: Number format and device of the run's config.

    Raises:
        ModelError: A number format that is not known.
    """
    resolved, kind = computing(dtype, device)
    name = str(kind).removeprefix("torch.")
    file = cache_folder() / "devices" / f"{_identity(resolved, name)}.json"
    kept = "kept"
    if file.is_file():
        rates = read_json(file, Rates, AGAIN)
        if min(asdict(rates).values()) <= 0:
            raise ParetuneError(f"{file}: not as expected (rates above 0); {AGAIN}")
    else:
        rates, others = _measured_now(file, resolved, kind)
        if others <= BUSY:
            write_json(file, asdict(rates))
        else:
            kept = f"measured while other programs used {others:.0%} of the processors, so not kept"
    if resolved.type == "cpu":
        threads = torch.get_num_threads()
        title = f"this machine, {threads} thread{'s' * (threads > 1)}"
        memory = float(psutil.virtual_memory().total)
    else:
        title, memory = f"this machine's {resolved.type}", memory_of(resolved)
    assumptions = (
        f"measured here in {name} on a small block with the run's own code: {rates.matmul / 1e9:.0f} GFLOP/s in products, "
        f"{rates.attention / 1e9:.0f} in attention over packed texts and {rates.decoding / 1e9:.1f} over a cache, "
        f"{rates.traffic / 1e9:.0f} GB/s in other operations, {rates.stream / 1e9:.1f} GB/s reading parameters "
        + (f"(kept in {file.parent}; delete it to measure again)" if kept == "kept" else f"({kept})")
    )
    return Device(HERE, HERE, title, memory, 1, {name: rates}, resolved.type == "cpu", assumptions), name


@lru_cache(maxsize=8)
def _measured_now(file: Path, device: torch.device, kind: torch.dtype) -> tuple[Rates, float]:
    """Return the rates, and the share of the processors that others used meanwhile; a command measures once for each ``file``."""
    say("measuring the speed of this machine: some seconds, longer while other programs run")
    before = _used()
    rates = measure(device, kind)
    return rates, _others(before, _used())


def measure(device: torch.device, kind: torch.dtype) -> Rates:
    """Return the rates that ``device`` reaches in ``kind``."""
    launch, stream = _launch(device, kind), _stream(device, kind)
    block = _llama(576, 1536, 9, 3, device, kind)
    prepare(block)
    shape = Shape("block", 576, 1536, 2, 9, 3, 64, 64, True)
    model = Model(shape, str(kind).removeprefix("torch."), tuple(shape.targeted(TARGETS)), RANK)
    # Two packings of as many tokens: many short texts, few long ones. They differ in attention alone.
    short, long = (_training(block, count, length) for count, length in ((12, 20), (2, 120)))
    passes = [_passes(count, length) for count, length in ((12, 20), (2, 120))]
    starts = [launch * operations(model, work, True) for work in passes]
    attending = [3.5 * attention_flops(shape, work.seen) for work in passes]
    longer = (long - starts[1]) - (short - starts[0])
    attention = (attending[1] - attending[0]) / max(longer, 0.01 * long)
    tokens = int(passes[0].tokens)
    matmul = _products(block, tokens)
    # What the short texts take beside products, attention and starts goes to all other operations.
    products = tokens * (4 * shape.matrices + 6 * model.column * RANK) / matmul
    rest = short - starts[0] - attending[0] / attention - products
    other = traffic(model, tokens, True) / max(rest, 0.05 * short)
    return Rates(matmul, min(attention, matmul), other, stream, launch, min(_decoding(block, shape), matmul))


def _products(model: PreTrainedModel, tokens: int) -> float:
    """Return the FLOP/s of the block's own products with ``tokens`` rows, forward and for the gradient of the input."""
    layers = [module for module in model.get_decoder().modules() if isinstance(module, FrozenLinear)]
    widths = {width for layer in layers for width in layer.weight.shape}
    states = {
        width: torch.randn(tokens, width, device=model.device, dtype=model.dtype) for width in sorted(widths)
    }

    def run() -> None:
        for layer in layers:
            layer.product(states[layer.in_features])
            layer.transposed_product(states[layer.out_features])

    return 4 * tokens * sum(layer.weight.numel() for layer in layers) / _seconds(run, model.device)


def _training(model: PreTrainedModel, count: int, length: int) -> float:
    """Return the seconds of a packed forward and backward on ``count`` prompts with two responses, all of ``length``."""
    steering = Steering.attach(model, TARGETS, RANK)
    ids = torch.arange(length).remainder(60).tolist()
    batch = pack([(ids, [ids, ids])] * count, model.device)
    gate = torch.full((RANK,), 2.0)

    def step() -> None:
        with steering.at(gate):
            packed_logps(model, batch).sum().backward()

    try:
        return _seconds(step, model.device)
    finally:
        steering.detach()


def _passes(count: int, length: int) -> Passes:
    """Return what :func:`_training` runs."""
    seen = count * (length**2 / 2 + 2 * 2 * length**2)
    return Passes(3 * count * length, 2 * count * length, seen, 1, 3 * count, RANK, True)


def _decoding(model: PreTrainedModel, shape: Shape) -> float:
    """Return the FLOP/s of attention of one token per row over a cache: a long one against a short one."""
    rows, lengths = 32, (16, 144)

    def step(held: int) -> Callable[[], None]:
        def run() -> None:
            cache = growing_cache(model.config)
            for layer in range(shape.layers):
                states = model.lm_head.weight.new_zeros(rows, shape.kv_heads, held, shape.head_dim)
                cache.update(states, states, layer)
            model(
                input_ids=torch.ones(rows, 1, dtype=torch.long, device=model.device),
                attention_mask=torch.ones(rows, held + 1, dtype=torch.long, device=model.device),
                use_cache=True,
                **given_cache(model, cache),
            )

        return run

    with torch.no_grad():
        short, long = (_seconds(step(held), model.device) for held in lengths)
    return attention_flops(shape, rows * (lengths[1] - lengths[0])) / max(long - short, 1e-6)


def _launch(device: torch.device, kind: torch.dtype) -> float:
    """Return the seconds of an operation that has next to nothing to do."""
    model = _llama(32, 32, 2, 1, device, kind)
    prepare(model)
    batch = pack([([1, 2], [[3]])], device)
    shape = Shape("tiny", 32, 32, 2, 2, 1, 16, 64, True)
    work = Passes(3, 1, 5, 1, 2)

    def run() -> None:
        for _ in range(5):
            packed_logps(model, batch)

    with torch.no_grad():
        return _seconds(run, device) / 5 / operations(Model(shape, "float32", (), 0), work, False)


def _stream(device: torch.device, kind: torch.dtype) -> float:
    """Return the bytes/s of a product of one row with matrices that no cache holds."""
    weights = [torch.ones(16_384, 1024, device=device, dtype=kind) for _ in range(4)]
    row = torch.ones(1, 1024, device=device, dtype=kind)

    def run() -> None:
        for weight in weights:
            F.linear(row, weight)

    return sum(weight.nbytes for weight in weights) / _seconds(run, device)


def _llama(
    hidden: int, intermediate: int, heads: int, kv_heads: int, device: torch.device, kind: torch.dtype
) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=64,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        return LlamaForCausalLM(config).to(device, kind).eval().requires_grad_(False)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the median time of ``run``: of the process alone where it has one thread, as the machine may be shared."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    taken: list[float] = []
    began = time.monotonic()
    for number in range(1 + ROUNDS):
        if number > LEAST_ROUNDS and time.monotonic() - began > LONGEST:
            break
        start = clock()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        taken.append(clock() - start)
    return median(taken[1:])


def _used() -> tuple[float, float, float]:
    """Return the seconds that the processors were busy so far, those of them for this process, and the time."""
    times, own = psutil.cpu_times(), time.process_time()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)
    return sum(times) - idle, own, time.monotonic()


def _others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Return the share of the processors that other programs used between two moments of :func:`_used`."""
    busy, own, seconds = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - own) / max(1e-9, seconds * (psutil.cpu_count() or 1))


def _identity(device: torch.device, dtype: str) -> str:
    """Return the identity of all that the rates depend on."""
    processor = platform.processor() or platform.machine()
    if (facts := Path("/proc/cpuinfo")).is_file():
        names = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    versions = [importlib.metadata.version(name) for name in ("paretune", "torch", "transformers")]
    return fingerprint(kind, str(device), dtype, torch.get_num_threads(), platform.node(), versions)
