"""ParetoHqD: supervised fine-tuning on the few responses nearest to each preference's ray (Gu et al. 2025, arXiv 2504.16628).

A preference w is a ray from the best score of every objective through ``low + w * (high - low)``; see
:mod:`paretune.methods.paretohqd.rays`.

    1. score all responses; the pool is the first non-dominated layers
    2. for each w: fine-tune a fresh adapter on S1(w), the k responses of the pool nearest to its ray
    3. the M + 1 adapters of one objective each and of equal weights answer training prompts; score the answers
    4. for each w: go on from its adapter on S2(w), the k / 2 nearest of these answers' own pool

Both stages lower the mean negative log-likelihood of a response token. A preference is served by the adapter trained nearest
to it: there is nothing to interpolate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError, DataError
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.row_store import taken
from paretune.data.rows import Prompt, Row
from paretune.generation.endpoint import Endpoint
from paretune.methods.paretohqd.rays import (
    Direction,
    Normalise,
    Selection,
    candidates,
    check_settings,
    select,
)
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy
from paretune.scoring.cache import ScoreCache
from paretune.scoring.repetition import is_collapsed
from paretune.scoring.scorer import Scorer, score_dataset
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.remote_stages import ask_stage, identity

BATCHES_PER_PART = 4
"""Batches answered between two writes: what a killed run loses at most."""


@dataclass(frozen=True)
class ParetoHqDConfig:
    """Settings of ParetoHqD; what the paper's full text would settle and could not be read for is a default here.

    Attributes:
        k: responses a preference in stage 1, at least 2; stage 2 takes half as many. The paper uses 100.
        num_layers: non-dominated layers in the pool; by default as few as hold 5 k responses.
        normalize: units of the distance to a ray: ``minmax`` (ranges), ``zscore`` (deviations) or ``none`` (scores).
        clip: quantile at either end beyond which scores are clipped before ranges and rays are taken, against one extreme
            score that moves every ray; from 0, which clips nothing, to below 0.5.
        direction: ``compromise`` is the paper's ray. ``inverse`` keeps all w_i * gap_i equal instead, for many objectives.
        drop_collapsed: leave out responses of fewer than 5 tokens or that repeat themselves
        (`paretune.scoring.repetition`); turn it
            off where such short answers are right.
        steps: optimiser steps of stage 1; by default those of ``train``. The paper has 200 in batches of 8, and it is not
            known whether for both stages.
        stage2: answer prompts with the stage-1 models and go on on the best answers; off, the method ends after stage 1.
        stage2_steps: optimiser steps of stage 2; by default half of stage 1's.
        prompts: training prompts each of the M + 1 models answers, drawn at random and the same for all; all of them where
            there are fewer.
        held_out: validation responses, chosen by the same rays, whose loss picks the best weights; 0, as in the paper,
            trains all steps and keeps the last.
    """

    k: int = 100
    num_layers: int | None = None
    normalize: Normalise = "minmax"
    clip: float = 0.0
    direction: Direction = "compromise"
    drop_collapsed: bool = True
    steps: int | None = None
    stage2: bool = True
    stage2_steps: int | None = None
    prompts: int = 10_000
    held_out: int = 0

    def __post_init__(self) -> None:
        check_settings(self.k, self.num_layers, self.normalize, self.clip, self.direction)
        if self.k < 2:
            raise ConfigError(f"k must be at least 2, as stage 2 takes half as many, got {self.k}")
        for key in ("steps", "stage2_steps", "prompts"):
            if (given := getattr(self, key)) is not None and given < 1:
                cure = "; to end after stage 1, set stage2: false" if key != "steps" else ""
                raise ConfigError(f"{key} must be at least 1, got {given}{cure}")
        if self.held_out < 0:
            raise ConfigError(f"held_out must be at least 0, got {self.held_out}")


def paretohqd(
    lab: Lab,
    train: ScoredDataset,
    validation: ScoredDataset,
    preferences: Sequence[Preference],
    scorers: Sequence[Scorer],
    sampling: Sampling,
    config: ParetoHqDConfig,
    endpoint: Endpoint | None = None,
) -> Policy:
    """Return the policy of one adapter a preference.

    Args:
        lab: model, folder and settings of training.
        train: responses with scores; an objective without any score is scored by its scorer.
        validation: used where ``config.held_out`` asks for it.
        preferences: what adapters are trained for.
        scorers: one an objective; they score the answers of stage 1, and data that have no scores.
        sampling: of the answers between the stages.
        config: settings of the method.
        endpoint: draws the answers of stage 2, see :func:`paretune.training.remote_stages.ask_stage`; None draws them here.

    Raises:
        ConfigError: an objective that has to be scored lacks a scorer.
        DataError: no response is left to choose from, or more than 1 % of them lack a score.
    """
    objectives = train.objectives
    anchors = [preference.over(objectives) for preference in preferences]
    models = representatives(anchors) if config.stage2 else []
    wanted = anchors + [preference for preference in models if preference not in anchors]
    if config.stage2:
        scorers_of(
            objectives, scorers, "stage 2, which scores new answers"
        )  # said before training, not after it
    steps = config.steps or lab.training.steps
    later = config.stage2_steps or max(1, steps // 2)

    first = nearest(lab, scored(lab, train, scorers, "stage 1"), wanted, config.k, config, "stage 1")
    held_out: list[list[Demonstration]] = [[] for _ in wanted]
    if config.held_out:
        judged = scored(lab, validation, scorers, "validation")
        held_out = nearest(lab, judged, wanted, config.held_out, config, "validation")
    adapters = {}
    with lab.trained_by(replace(lab.training, steps=steps)):
        for preference, chosen, kept in zip(wanted, first, held_out, strict=True):
            info = _info(preference, 1)
            name = f"paretohqd-{preference}-stage-1"
            adapters[preference] = lab.fit_demonstrations(name, chosen, kept, info=info)
    if config.stage2:
        answering = [(w, adapters[w]) for w in models]
        answers = augment(lab, train, answering, scorers, sampling, config.prompts, endpoint)
        second = nearest(lab, answers, anchors, config.k // 2, config, "stage 2")
        teachers = {adapters[w].info["stage"] for w in models}
        with lab.trained_by(replace(lab.training, steps=later)):
            for preference, chosen, kept in zip(anchors, second, held_out[: len(anchors)], strict=True):
                if chosen:
                    start = adapters[preference]
                    led = sorted(teachers | {start.info["stage"]})
                    info = _info(preference, 2) | {"start": start.info["stage"], "stages": led}
                    name = f"paretohqd-{preference}-stage-2"
                    adapters[preference] = lab.fit_demonstrations(name, chosen, kept, start, info)
    return Policy.anchors("paretohqd", lab.lm, objectives, [adapters[w] for w in anchors], anchors)


def representatives(anchors: Sequence[Preference]) -> list[Preference]:
    """Return one preference an objective and the one of equal weights, each as in ``anchors`` where it is there."""
    objectives = anchors[0].objectives
    wanted = [Preference.one_hot(objective, objectives) for objective in objectives]
    if len(objectives) > 1:
        wanted.append(Preference.uniform(objectives))
    return [next((a for a in anchors if np.allclose(a.array(), w.array())), w) for w in wanted]


def nearest(
    lab: Lab,
    dataset: ScoredDataset,
    preferences: Sequence[Preference],
    k: int,
    config: ParetoHqDConfig,
    stage: str,
) -> list[list[Demonstration]]:
    """Return for each preference the responses nearest to its ray, and keep the figures of the choice in the run folder.

    Of stage 2 none, with a word about it, where no response can be used.

    Raises:
        DataError: nothing to choose from before stage 2, or too many scores are missing; names the stage.
    """
    where = f"ParetoHqD, {stage}"

    def collapsed(text: str) -> bool:
        return is_collapsed(lab.lm.encode_response(text))

    found = candidates(dataset, collapsed if config.drop_collapsed else None)
    left_out = ", ".join(f"{count} {reason}" for reason, count in found.dropped.items())
    if left_out:
        lab.say(f"{where}: responses left out: {left_out}")
    if len(found.rows) == 0:
        reason = f"no usable response (left out: {left_out or 'none'})"
        if stage == "stage 2":
            lab.say(f"{where}: {reason}; the adapters of stage 1 are kept")
            return [[] for _ in preferences]
        raise DataError(
            f"{where}: {reason}; give scored responses, or set drop_collapsed: false for short ones"
        )
    selection = select(
        found.scores,
        np.array([preference.array() for preference in preferences]),
        k,
        num_layers=config.num_layers,
        normalize=config.normalize,
        clip=config.clip,
        direction=config.direction,
        objectives=dataset.objectives,
        where=where,
        origin=partial(found.where, dataset),
    )
    _tell(lab, selection, dataset.objectives, len(found.rows), stage)

    def demonstration(n: int) -> Demonstration:
        row = dataset.rows[found.rows[n]]
        return Demonstration(row.prompt, row.responses[found.responses[n]], where=found.where(dataset, n))

    return [[demonstration(n) for n in chosen] for chosen in selection.chosen]


def augment(
    lab: Lab,
    train: ScoredDataset,
    models: Sequence[tuple[Preference, Adapter]],
    scorers: Sequence[Scorer],
    sampling: Sampling,
    count: int,
    endpoint: Endpoint | None = None,
) -> ScoredDataset:
    """Return ``count`` training prompts with the answers of every model, scored on every objective; kept as a stage."""
    places, seed = train.distinct(), lab.training.seed
    order = np.random.default_rng(seed).permutation(len(places))[:count]
    rows = taken(train.rows, places[np.sort(order)])
    asked = [row.prompt for row in rows]
    ordered = scorers_of(train.objectives, scorers, "stage 2, which scores new answers")
    key = fingerprint(
        [row.key for row in rows],
        [adapter.fingerprint for _, adapter in models],
        [scorer.fingerprint for scorer in ordered],
        [lab.lm.fingerprint, str(lab.lm.model.dtype), sampling.identity(), seed],
        *identity(endpoint),
    )

    def make(folder: Path) -> None:
        drawn = [
            _answer(
                lab, preference, adapter, asked, sampling, seed * 1_000_003 + number * len(asked), endpoint
            )
            for number, (preference, adapter) in enumerate(models)
        ]
        made = []
        for row, *own in zip(rows, *drawn, strict=True):
            texts = [(text, cut) for text, cut in own if text]
            made.append(
                Row(row.prompt, tuple(t for t, _ in texts), {}, {}, tuple(c for _, c in texts), row.source)
            )
        empty = len(models) * len(rows) - sum(len(row.responses) for row in made)
        if empty:
            lab.say(
                f"ParetoHqD, stage 2: {empty} of {len(models) * len(rows)} answers are empty and were left out"
            )
        answers = ScoredDataset((), tuple(made))
        score_dataset(answers, ordered, _score_cache(lab)).write(folder / "answers.jsonl.gz")

    folder = lab.stage("answers/paretohqd", key, make)
    return ScoredDataset.read(folder / "answers.jsonl.gz", train.objectives)


def _answer(
    lab: Lab,
    preference: Preference,
    adapter: Adapter,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    endpoint: Endpoint | None,
) -> list[tuple[str, bool]]:
    """Return each answer of an adapter and whether it was cut; answer n is drawn with ``seed + n``, and parts are kept."""
    if endpoint is not None:
        own, title = [seed + n for n in range(len(prompts))], f"sampling stage 1 at {preference}"
        answers = ask_stage(lab, endpoint, adapter, prompts, sampling, own, title)
        return [(answer.text, answer.truncated) for answer in answers]
    policy = Policy.anchors(
        f"stage 1 at {preference}", lab.lm, preference.objectives, [adapter], [preference]
    )
    size = BATCHES_PER_PART * sampling.batch_size
    found: list[tuple[str, bool]] = []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        texts = [[[message.role, message.content] for message in prompt] for prompt in part]
        who = [adapter.fingerprint, lab.lm.fingerprint, str(lab.lm.model.dtype)]
        file = (
            lab.folder / "cache" / "answers" / f"{fingerprint(who, texts, vars(sampling), seed + start)}.json"
        )
        if not file.is_file():
            seeds = list(range(seed + start, seed + start + len(part)))
            drawn = policy.generate(part, [preference] * len(part), sampling, seeds)
            write_json(file, [[response.text, response.truncated] for response in drawn])
        found += [(str(text), bool(cut)) for text, cut in read_json(file)]
    return found


def scored(lab: Lab, dataset: ScoredDataset, scorers: Sequence[Scorer], stage: str) -> ScoredDataset:
    """Return the data with scores for the objectives that have none at all; those of the others stay as they are.

    Raises:
        ConfigError: such an objective has no scorer; names stage and objective.
    """
    silent = [
        objective
        for objective in dataset.objectives
        if not any(objective in row.scores for row in dataset.rows)
    ]
    if not silent:
        return dataset
    judges = scorers_of(silent, scorers, stage)
    return lab.team.once(lambda: score_dataset(dataset, judges, _score_cache(lab)))


def scorers_of(objectives: Sequence[str], scorers: Sequence[Scorer], stage: str) -> list[Scorer]:
    """Return the scorer of each objective, in their order, or raise ConfigError naming stage and objective."""
    by_objective = {scorer.objective: scorer for scorer in scorers}
    for objective in objectives:
        if objective not in by_objective:
            raise ConfigError(
                f"ParetoHqD, {stage}: no scorer for the objective {objective!r}; add one under score: (to end after stage 1 "
                "on data that have scores, set stage2: false)"
            )
    return [by_objective[objective] for objective in objectives]


def _score_cache(lab: Lab) -> ScoreCache:
    return ScoreCache(lab.folder / "cache" / "scores.sqlite")


def _info(preference: Preference, number: int) -> dict[str, Any]:
    return {"method": "paretohqd", "preference": preference.as_dict(), "stage_number": number}


def _tell(lab: Lab, selection: Selection, objectives: Sequence[str], count: int, stage: str) -> None:
    """Say what was chosen, and write the figures of the choice to ``selections/``."""
    figures = selection.to_dict(objectives)
    name = lab.own_name(f"selections/paretohqd-{stage.replace(' ', '-')}", fingerprint(figures))
    write_json(lab.folder / f"{name}.json", figures)
    shared = selection.overlap()
    told = f"ParetoHqD, {stage}: {len(selection.pool)} of {count} responses in {selection.num_layers} layer"
    told += "s" * (selection.num_layers > 1)
    if not np.isnan(shared):
        told += f"; neighbouring preferences share {shared:.0%} of their responses"
    lab.say("; ".join([told, *selection.notes]))
