"""What a run would need of memory at the very least, so that a size that cannot be is refused with its estimate and not tried."""

from __future__ import annotations

from collections.abc import Iterator

from paretune.core.errors import ConfigError, ModelError
from paretune.planning.cost import MASTER
from paretune.planning.memory import OPTIMISER
from paretune.planning.shapes import KNOWN, Shape
from paretune.runs.config import Entry, RunConfig
from paretune.training.loop import Training
from paretune.training.rl.goal import RLSettings

ANY_MACHINE = 1e15
"""Bytes that no machine has: a config may be checked on another machine than that of its run."""
ORDER_BYTES = 36
"""Bytes of a row's number in the order that a run draws its rows in."""
TEXT_BYTES = 500
"""Bytes of a short answer with what is known of it."""
SHORT = 4
"""Tokens of a short pair."""


def check_sizes(config: RunConfig, memory: float = ANY_MACHINE, shape: Shape | None = None) -> None:
    """Refuse sizes whose least need of memory is beyond what there is.

    Args:
        config: Settings of the run.
        memory: Bytes that there are.
        shape: Shape of the model; by default that of its name, where it is known without reading anything.

    Raises:
        ConfigError: A need is beyond ``memory``; the message has key, estimate and memory.
    """
    shape = shape or KNOWN.get(config.model.lower())
    for key, value, needed, what in _needs(config, shape):
        if needed > memory:
            there = "any machine has" if memory == ANY_MACHINE else f"the {in_units(memory)} of this machine"
            raise ConfigError(
                f"{key}: {value} needs at least {in_units(needed)} of memory for {what}, which is more than {there}; "
                "give a smaller number"
            )


def in_units(size: float) -> str:
    """Return bytes in units for people.

    >>> in_units(2.5e9), in_units(3e18)
    ('2.5 GB', '3e+06 TB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.3g} bytes"


Need = tuple[str, object, float, str]
"""Key, its value, the bytes that it needs at least, and what they hold."""


def _needs(config: RunConfig, shape: Shape | None) -> Iterator[Need]:
    yield from _trained("train", config.training(), shape)
    for name in config.methods:
        entry = config.entry(name)
        yield from _trained(f"methods.{name}.train", entry.training, shape)
        yield from _conditioned(config, entry, shape)
    for key, count in (("data.sample", config.data.sample), ("evaluate.samples", config.evaluate.samples)):
        yield key, count, 2.0 * TEXT_BYTES * count, "answers"
    if shape is not None:
        new = config.sampling.max_new_tokens
        held = 2.0 * shape.keys * shape.layers * 2 * new
        yield "sampling.max_new_tokens", new, held, "the keys and values of one answer"


def _trained(key: str, training: Training, shape: Shape | None) -> Iterator[Need]:
    rows = f"{training.steps} x {training.accumulate} x {training.batch_pairs}"
    yield (
        f"{key}.steps x accumulate x batch_pairs",
        rows,
        float(ORDER_BYTES) * training.draws,
        "the order of the rows",
    )
    if shape is None:
        return
    step = float(training.batch_pairs) * SHORT * shape.hidden * MASTER
    yield f"{key}.batch_pairs", training.batch_pairs, step, "the states of one batch"
    held = training.rank * _column(shape, training) * MASTER * OPTIMISER
    yield f"{key}.rank", training.rank, held, "an adapter and its optimiser"


def _conditioned(config: RunConfig, entry: Entry, shape: Shape | None) -> Iterator[Need]:
    if isinstance(entry.settings, RLSettings):
        training, count = entry.training, entry.settings.responses
        rows = float(training.batch_pairs) * training.accumulate * count
        yield f"methods.{entry.name}.responses", count, TEXT_BYTES * rows, "the responses of one step"
    conditioning = entry.traits.conditioning
    if conditioning is not None and shape is not None:
        columns = conditioning.columns(max(2, len(config.objectives or config.score)))
        value = f"rank {conditioning.rank}, groups {conditioning.groups}, hidden {conditioning.hidden}"
        held = columns * _column(shape, entry.training) * MASTER * OPTIMISER
        yield f"methods.{entry.name}", value, held, "its adapter and its optimiser"


def _column(shape: Shape, training: Training) -> float:
    """Return the parameters of one column of an adapter on all targets; of one layer where a plan does not know them."""
    try:
        return float(shape.layers * sum(map(sum, shape.targeted(training.targets))))
    except ModelError:
        return float(shape.hidden)
