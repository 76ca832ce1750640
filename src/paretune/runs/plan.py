"""What a run does, before it does it: its stages in order, with the tokens that each reads and writes.

Nothing is loaded but the data and a tokenizer. A training run that ends early (``train.stop_below``) is counted in full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.load import load_data
from paretune.data.typical import SIZES, is_here, stand_in
from paretune.evaluation.token_kl import AUDITED
from paretune.planning.lengths import counter, encoded, of_rows
from paretune.planning.work import Stage, Work, inner, passes, reading
from paretune.runs.asking import Asking, asked
from paretune.runs.config import Entry, RunConfig
from paretune.runs.prepare import check_responses, load_splits
from paretune.runs.principles import compares, judge_of, pairs_asked

ANSWER_SHARE = 0.6
"""Length of an answer as a share of ``max_new_tokens``, where the data hold no response to take it from."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
        stages: Stages, in order.
        policies: Columns of the adapters that each saved policy holds.
        judged_tokens: Mean tokens of an answer that is rated, with its prompt.
        longest_judged: Tokens of the longest of them.
        encoded_tokens: Mean tokens of a text that the encoder of heads reads to rate an answer, of which it reads two.
        assumptions: What was assumed of the run.
        asked: What judges and scoring servers will be asked.
    """

    stages: tuple[Stage, ...]
    policies: tuple[tuple[int, ...], ...]
    judged_tokens: float
    longest_judged: float
    encoded_tokens: float
    assumptions: tuple[str, ...]
    asked: tuple[Asking, ...] = ()

    @property
    def runs(self) -> int:
        """Number of adapters that are trained."""
        return sum(len(stage.columns) for stage in self.stages)


def plan(config: RunConfig, splits: Mapping[str, ScoredDataset] | None = None) -> Plan:
    """Return what ``paretune run`` would do.

    Args:
        config: Settings of the run.
        splits: Its data, where they are read already.

    Raises:
        DataError: The data cannot be loaded, or have rows without a response and ``data.sample`` is not set.
        ConfigError: Preferences, or settings of a method, that do not fit.
    """
    work = planned(config, splits)
    entries = [config.entry(name) for name in config.methods]
    stages = _data(config, work)
    for entry in entries:
        stages += entry.method.work(work, entry.name, entry.settings, entry.training)
    if not config.untrained:
        corners, training = config.corners()
        stages += work.corners(corners.beta, corners.pairs, training, nll=corners.nll, anchor=corners.anchor)
    stages += _front(config, work, entries)
    policies = tuple(_columns(work, entry) for entry in entries)
    tokens = work.test.prompt + work.answer
    asking = asked(config, stages, tokens, _compared(config, work))
    if asking:
        work.assumptions.append(
            "a judge's answer has 150 tokens and can be read, and none is in the cache; servers answer at once what they are sent "
            "together"
        )
    longest = max(texts.longest for texts in work.rows.values()) + config.sampling.max_new_tokens
    read = encoded(work.splits["test"].rows, work.count, work.answer) if _with_heads(config) else 0.0
    return Plan(tuple(stages), policies, tokens, longest, read, tuple(work.assumptions), asking)


def _with_heads(config: RunConfig) -> bool:
    return any("head" in spec for spec in config.score)


def _compared(config: RunConfig, work: Work) -> dict[str, float]:
    """Return objective -> pairs of training responses that its judge compares, where the data say nothing of the objective."""
    parts = [work.rows[name] for name in ("train", "validation")]
    judges = {str(spec.get("objective")): judge_of(spec) for spec in config.score}
    return {
        objective: sum(part.count * pairs_asked(spec, part.responses) for part in parts)
        for objective, spec in judges.items()
        if spec is not None and compares(spec) and objective not in work.splits["train"].objectives
    }


def planned(config: RunConfig, splits: Mapping[str, ScoredDataset] | None = None) -> Work:
    """Load the data of a run, unless they are given, and return its lengths, with nothing trained or scored so far."""
    said: list[str] = []
    count = counter(config.model, json.dumps(config.chat_template))
    splits = splits or load_splits(config, _reader(config, said))
    objectives = _objectives(config, splits)
    config.extrapolations(objectives)
    rows = {name: of_rows(part.rows, count) for name, part in splits.items()}
    most = config.sampling.max_new_tokens
    if _bare(config, splits) and config.data.sample:
        sampled = {"responses": float(config.data.sample), "response": ANSWER_SHARE * most}
        rows |= {name: replace(rows[name], **sampled) for name in ("train", "validation")}
    answer = min(rows["train"].response or ANSWER_SHARE * most, most)
    unique = len({row.key for row in splits["test"].rows})
    prompts = min(unique, config.evaluate.prompts or unique)
    test = replace(rows["test"], count=prompts, responses=float(config.evaluate.samples), response=answer)
    assumptions = [
        *said,
        f"token counts: {count.note}",
        f"a sampled answer has {answer:.0f} tokens, the mean of the data's responses, and one of every batch has all {most}",
        "training runs take all their steps, and no stage is found finished in the run folder",
    ]
    if config.endpoint is not None:
        assumptions.append(f"answers that {config.endpoint.url} draws are counted as drawn here")
    if not set(objectives) <= set(splits["train"].objectives):
        assumptions.append(
            "which pair of a prompt's responses is trained on is not known before they are scored: any"
        )
    return Work(
        splits, objectives, config.grid(objectives), count, rows, answer, test, config.sampling,
        config.train.max_tokens, config.data.sample, assumptions, config.data.too_long,
    )  # fmt: skip


def _reader(config: RunConfig, said: list[str]) -> Callable[..., ScoredDataset]:
    """Return what reads the data of a plan: a known set that is not on this machine is not fetched for it.

    Texts of its typical lengths stand for it, which is added to ``said``.
    """

    def load(spec: Any, split: str | None, *, path: str | None = None) -> ScoredDataset:
        if not (isinstance(spec, str) and spec in SIZES) or path is not None or is_here(spec):
            return load_data(spec, split, path=path)
        dataset, sizes = stand_in(spec, config.data.limit), SIZES[spec]
        said.append(
            f"{spec} is not on this machine: {len(dataset.rows)} prompts of about {sizes.prompt} characters with {sizes.responses} "
            f"responses of {sizes.response} stand for it"
        )
        return dataset

    return load


def _objectives(config: RunConfig, splits: Mapping[str, ScoredDataset]) -> list[str]:
    scored = [str(spec.get("objective")) for spec in config.score]
    return list(config.objectives) or list(dict.fromkeys([*splits["train"].objectives, *scored]))


def _bare(config: RunConfig, splits: Mapping[str, ScoredDataset]) -> int:
    """Return how many rows of training have no response, for which some will be sampled.

    Raises:
        DataError: There are such rows, and ``data.sample`` is 0.
    """
    rows = [row for name in ("train", "validation") for row in splits[name].rows]
    for name in ("train", "validation"):
        check_responses(config, splits[name])
    return sum(not row.responses for row in rows)


def _data(config: RunConfig, work: Work) -> list[Stage]:
    """Return the stages before training: responses are sampled where there are none, and scored."""
    sizes = {name: len({row.key for row in part.rows}) for name, part in work.splits.items()}
    answers = _bare(config, work.splits) * config.data.sample
    sampled = (work.decoding(answers, work.rows["train"], 0),) if answers else ()
    prompts = ", ".join(f"{count} {name}" for name, count in sizes.items()) + " prompts"
    scored = [str(spec.get("objective")) for spec in config.score]
    silent = [name for name in scored if name not in work.splits["train"].objectives]
    texts = [work.rows[name] for name in ("train", "validation")]
    judged = sum(part.count * part.responses for part in texts) if silent else 0.0
    fitted = [str(spec.get("objective")) for spec in config.score if spec.get("head") == "fit"]
    judged_for = [str(spec.get("objective")) for spec in config.score if "labels" in spec]
    labels = [Stage("labels", f"by judges for {', '.join(judged_for)}")] if judged_for else []
    heads = [_fitted(work, fitted, answers)] if fitted else []
    return [
        Stage("data", prompts, decodings=sampled),
        *labels,
        *heads,
        Stage("score", ", ".join(scored) or "labels of the data", judged=judged),
    ]


def _fitted(work: Work, objectives: Sequence[str], sampled: float) -> Stage:
    """Return the stage that fits heads: each response with a label is read twice, behind the user's last message and alone.

    Args:
        work: The run.
        objectives: The heads' objectives.
        sampled: Number of responses that are sampled before.
    """
    parts = [work.splits[name].rows for name in ("train", "validation")]
    every = [row for rows in parts for row in rows]
    texts = tokens = 0.0
    for objective in objectives:
        labelled = [row for row in every if row.labels.get(objective) or row.scores.get(objective)] or every
        read = 2.0 * (sum(len(row.responses) for row in labelled) + (sampled if labelled is every else 0.0))
        answer = work.rows["train"].response if sampled else None
        texts, tokens = texts + read, tokens + read * encoded(labelled, work.count, answer)
    what = f"fitted for {', '.join(objectives)}"
    return Stage("heads", what, embedded=texts, embedded_tokens=tokens / max(1.0, texts))


def _columns(work: Work, entry: Entry) -> tuple[int, ...]:
    """Return the columns of each adapter of the policy of an entry."""
    return entry.traits.columns(entry.training.rank, len(work.objectives), len(work.preferences))


def _front(config: RunConfig, work: Work, entries: list[Entry]) -> Iterator[Stage]:
    """Yield the measurement of the base model, of the single-objective models and of every policy."""
    M, fine = len(work.objectives), config.fine_grid(work.objectives)
    corners = None if config.untrained else config.corners()
    yield _measured(work, "front: base", 1, 0)
    if corners is None:
        yield replace(_ends(work, entries[0], M), name="front: corners")
    else:
        yield _measured(work, "front: corners", M, M * config.train.rank)
    for entry in entries:
        traits, columns = entry.traits, sum(_columns(work, entry))
        preferences: list[Preference] = list(work.preferences) if traits.anchored else fine
        between = inner(preferences)
        # Corners that are the single-objective models, or those of the first policy, are measured already.
        known = entry == entries[0] if corners is None else (traits.corners, entry.training) == corners
        ends = 0 if known else len(preferences) - between - ((traits.corner, entry.training) == corners)
        beyond = len(config.evaluate.extrapolations) * traits.extrapolates
        copies, words = traits.copies(M), _words(work, entry)
        parts = []
        if between + beyond:
            points = between + beyond
            measured = _measured(work, "", points, columns, copies, traits.candidates, words)
            parts.append(_read_once(measured, points) if traits.one_reading else measured)
        if ends:
            parts.append(_ends(work, entry, ends))
        if traits.mixed and copies > 1 and between:
            parts.append(_audited(work, between, columns, copies))
        yield Stage(
            f"front: {entry.name}",
            _points(work, between + ends + beyond),
            tuple(one for part in parts for one in part.passes),
            tuple(one for part in parts for one in part.decodings),
            sum(part.judged for part in parts),
        )


def _ends(work: Work, entry: Entry, points: int) -> Stage:
    """Return the measurement of a policy at so many one-hot preferences."""
    traits, columns, words = entry.traits, sum(_columns(work, entry)), _words(work, entry)
    stage = _measured(work, "", points, columns, traits.copies(1), traits.candidates, words)
    if traits.one_reading:
        return _read_once(stage, points)
    if not traits.guided:
        return stage
    # Each copy with a principle reads a prompt of its own, and those without read the same one.
    shared = work.test.responses * 2 * points / (points + 1)
    return replace(stage, decodings=tuple(replace(one, shared=shared) for one in stage.decodings))


def _read_once(stage: Stage, points: int) -> Stage:
    """Return a measurement whose answers share the reading of a prompt at all preferences that are decoded together."""
    together = [max(1.0, min(points, one.batch / max(1.0, one.rows / points))) for one in stage.decodings]
    decodings = zip(stage.decodings, together, strict=True)
    return replace(
        stage, decodings=tuple(replace(one, shared=one.shared * count) for one, count in decodings)
    )


def _words(work: Work, entry: Entry) -> int:
    """Return how many tokens of words the policy of an entry writes into a prompt."""
    return work.count.response(entry.traits.asks, True) if entry.traits.asks else 0


def _measured(
    work: Work,
    name: str,
    points: int,
    columns: int,
    copies: int = 1,
    candidates: int = 1,
    words: int = 0,
) -> Stage:
    """Return the sampling and judging of ``points`` preferences on the held-out prompts.

    Args:
        work: The run.
        name: Name of the stage.
        points: Number of preferences.
        columns: Columns of the adapters in force.
        copies: Copies of a row that its mixture runs.
        candidates: Answers sampled for each one that is judged.
        words: Tokens that the policy writes into a prompt; the base model reads the answers without them.
    """
    test, size = work.test, work.sampling.batch_size
    answers = test.count * test.responses
    # Preferences that fill one batch are measured together, and then share the reading of prompts by the base model.
    rounds = ceil(points / max(1, size // max(1, int(answers))))
    # Answers at one preference share the reading of their prompt; by a mixed policy, whose copies are the same at every preference,
    # all answers do.
    shared = test.responses * candidates * (points / rounds if copies > 1 else 1)
    asked = replace(test, prompt=test.prompt + words, longest=test.longest + words)
    sampled = work.decoding(points * answers * candidates / rounds, asked, columns, copies, shared)
    sampled = replace(sampled, rows=sampled.rows * rounds)
    group = replace(test, count=test.count * rounds, responses=points * test.responses / rounds)
    read = reading(group, 0)
    read = replace(read, forwards=max(rounds, read.forwards))
    return Stage(name, _points(work, points), (read,), (sampled,), points * answers)


def _audited(work: Work, points: int, columns: int, copies: int) -> Stage:
    """Return the comparison of a mixed policy with the soup: each answer is read alone, by all copies and by the soup."""
    answers = points * min(AUDITED, work.test.count)
    texts = replace(work.test, count=answers * (copies + 1), responses=1.0)
    return Stage("", "", (passes(texts, 2 * answers, columns),))


def _points(work: Work, points: int) -> str:
    return f"{points} point{'s' * (points != 1)} on {work.test.count:.0f} held-out prompts"
