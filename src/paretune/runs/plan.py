"""What a run does, before it does it: its stages in order, with the tokens that each reads and writes.

Nothing is loaded but the data and a tokenizer. A training run that ends early (``train.stop_below``) is counted in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from paretune.evaluation.token_kl import AUDITED
from paretune.planning.work import Stage, Work, passes, reading
from paretune.runs.config import RunConfig
from paretune.runs.run import endpoint_settings
from paretune.runs.work_of_methods import (
    anchored,
    copies_of,
    extrapolates,
    inner,
    policy_columns,
    train_stages,
)


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
        stages: in order.
        policies: columns of the adapters that each saved policy holds.
        judged_tokens: mean tokens of an answer that is rated, with its prompt.
        said: what was assumed of the run.
    """

    stages: tuple[Stage, ...]
    policies: tuple[tuple[int, ...], ...]
    judged_tokens: float
    said: tuple[str, ...]

    @property
    def runs(self) -> int:
        """Adapters that are trained."""
        return sum(len(stage.columns) for stage in self.stages)


def plan(config: RunConfig) -> Plan:
    """Return what ``paretune run`` would do.

    Raises:
        DataError: the data cannot be loaded, or have rows without a response and ``data.sample`` is not set.
        ConfigError: preferences, or settings of a method, that do not fit.
    """
    work = Work(config)
    stages = list(work.data_stages())
    for name in config.methods:
        stages += train_stages(work, name)
    name, settings = endpoint_settings(config)
    stages += work.dpo(settings.beta, settings.pairs, config.training(name))
    stages += _front(work)
    policies = tuple(policy_columns(work, name) for name in config.methods)
    return Plan(tuple(stages), policies, work.test.prompt + work.answer, tuple(work.said))


def _front(work: Work) -> Iterator[Stage]:
    """Yield the measurement of the base model, of the single-objective models and of every policy."""
    config, M = work.config, len(work.objectives)
    yield _measured(work, "front: base", 1, 0)
    yield _measured(work, "front: endpoints", M, M * config.train.rank)
    for name in config.methods:
        kind, settings = config.kind(name), config.method(name)
        columns = sum(policy_columns(work, name))
        copies, drawn = copies_of(settings, M)
        asked = work.preferences if anchored(settings) else work.fine
        between = inner(asked)
        # The corners of a soup, MOD and MODPO are the single-objective models, which are measured already.
        ends = 0 if kind in ("dpo-soup", "mod", "modpo") else len(asked) - between
        beyond = len(config.evaluate.extrapolations) * extrapolates(settings)
        parts = [
            _measured(work, "", count, columns, many, drawn)
            for count, many in ((between + beyond, copies), (ends, 1))
            if count
        ]
        if copies > 1 and between:
            parts.append(_audited(work, between, columns, copies))
        yield Stage(
            f"front: {name}",
            _points(work, between + ends + beyond),
            tuple(each for part in parts for each in part.passes),
            tuple(each for part in parts for each in part.decodings),
            sum(part.judged for part in parts),
        )


def _measured(work: Work, name: str, points: int, columns: int, copies: int = 1, drawn: int = 1) -> Stage:
    """Return the sampling and judging of ``points`` preferences on the held-out prompts.

    Args:
        work: the run.
        name: of the stage.
        points: preferences.
        columns: of the adapters in force.
        copies: of a row that its mixture runs.
        drawn: responses for each that is judged.
    """
    test, size = work.test, work.config.sampling.batch_size
    answers = test.count * test.responses
    # Preferences that fill one batch are measured together, and then share the reading of prompts by the base model.
    rounds = ceil(points / max(1, size // max(1, int(answers))))
    sampled = work.decoding(points * answers * drawn / rounds, test, columns, copies)
    sampled = replace(sampled, rows=sampled.rows * rounds)
    group = replace(test, count=test.count * rounds, responses=points * test.responses / rounds)
    return Stage(name, _points(work, points), (reading(group, 0),), (sampled,), points * answers)


def _audited(work: Work, points: int, columns: int, copies: int) -> Stage:
    """Return the comparison of a mixture with the soup: each answer is read alone, by all copies and by the soup."""
    texts = replace(work.test, count=points * min(AUDITED, work.test.count) * (copies + 1), responses=1.0)
    return Stage("", "", (passes(texts, texts.count, columns),))


def _points(work: Work, points: int) -> str:
    return f"{points} point{'s' * (points != 1)} on {work.test.count:.0f} held-out prompts"
