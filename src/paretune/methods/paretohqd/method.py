"""ParetoHqD: supervised fine-tuning on the few responses nearest to each preference's ray (Gu et al. 2025, arXiv 2504.16628).

A preference w is a ray from the best score of every objective through ``low + w * (high - low)``; see
:mod:`paretune.methods.paretohqd.rays`.

    1. score all responses; the pool is the first non-dominated layers
    2. for each w: fine-tune a fresh adapter on S1(w), the k responses of the pool nearest to its ray
    3. the M + 1 adapters of one objective each and of equal weights answer training prompts; score the answers
    4. for each w: continue from its adapter on S2(w), the k / 2 nearest of these answers' own pool

Both stages lower the mean negative log-likelihood of a response token. A preference is served by the adapter trained nearest
to it: there is nothing to interpolate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.bounds import Count, Natural
from paretune.core.errors import ConfigError, DataError
from paretune.core.files import fingerprint, write_json
from paretune.core.preference import Preference
from paretune.core.settings import later
from paretune.data.dataset import ScoredDataset
from paretune.data.row_store import taken
from paretune.data.rows import Prompt, Row
from paretune.generation.resumable import Drawn, draw_in_parts, part_size
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.methods.paretohqd.rays import Rays, Selection, candidates, select
from paretune.models.adapter import Adapter
from paretune.planning.work import Fits, Stage, Work
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.scoring.prompt_means import PromptMeans
from paretune.scoring.repetition import is_collapsed
from paretune.scoring.scorer import Scorer, score_dataset
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.remote_stages import ask_stage, identity

STAGE_2 = "stage 2, which scores new answers"


@dataclass(frozen=True)
class ParetoHqDConfig(Rays):
    """Settings of ParetoHqD, beside those of :class:`paretune.methods.paretohqd.rays.Rays`; ``k`` is that of stage 1, at least 2,
    and stage 2 takes half as many. What the paper's full text would settle and could not be read for is a default here.

    Attributes:
        drop_collapsed: Leave out responses of fewer than 5 tokens or that repeat themselves (`paretune.scoring.repetition`); turn
            it off where such short answers are right.
        steps: Optimiser steps of stage 1; by default those of ``train``. The paper has 200 in batches of 8, and it is not
            known whether for both stages.
        stage2: Answer prompts with the stage-1 models and continue on the best answers; off, the method ends after stage 1.
        stage2_steps: Optimiser steps of stage 2; by default half of stage 1's.
        prompts: Training prompts that each of the M + 1 models answers, drawn at random and the same for all; all of them where
            there are fewer.
        held_out: Validation responses, chosen by the same rays, whose loss picks the best weights; 0, as in the paper,
            trains all steps and keeps the last.
        between: What answers at a preference without an adapter: the ``nearest`` one, or a ``soup`` of those around it, which is
            marked as interpolated.
    """

    drop_collapsed: bool = True
    steps: Count | None = None
    stage2: bool = True
    stage2_steps: Count | None = None
    prompts: Count = 10_000
    held_out: Natural = 0
    between: BetweenAnchors = later("nearest")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 2:
            raise ConfigError(f"k must be at least 2, as stage 2 takes half as many, got {self.k}")

    def rays(self, k: int) -> Rays:
        """Return how ``k`` responses are chosen."""
        return Rays(k, self.num_layers, self.normalize, self.clip, self.direction)

    def trained_by(self, training: Training, stage: int) -> Training:
        """Return the settings of training in a stage, 1 or 2."""
        first = self.steps or training.steps
        steps = first if stage == 1 else self.stage2_steps or max(1, first // 2)
        return replace(training, steps=steps)


def train(inputs: Inputs, config: ParetoHqDConfig) -> Policy:
    """Return the policy of one adapter per preference.

    Objectives that have no score at all in the data are scored by their scorers, as are the answers of stage 1. The validation data
    are read where ``held_out`` asks for them.

    Raises:
        ConfigError: an objective that has to be scored lacks a scorer.
        DataError: no response is left to choose from, or more than 1 % of them lack a score.
    """
    lab = inputs.lab
    anchors = [preference.over(inputs.objectives) for preference in inputs.preferences]
    models, wanted = trained_first(anchors, config)
    if config.stage2:  # a scorer that is missing is reported before training, not after it
        scorers_of(inputs, inputs.objectives, STAGE_2)
    chosen = nearest(inputs, scored(inputs, inputs.train, "stage 1"), wanted, config, config.k, "stage 1")
    held_out: list[list[Demonstration]] = [[] for _ in wanted]
    if config.held_out:
        validation = scored(inputs, inputs.validation, "validation")
        held_out = nearest(inputs, validation, wanted, config, config.held_out, "validation")
    adapters = {}
    with lab.trained_by(config.trained_by(lab.training, 1)):
        for preference, items, kept in zip(wanted, chosen, held_out, strict=True):
            name = f"paretohqd-{preference}-stage-1"
            adapters[preference] = lab.fit_demonstrations(name, items, kept, info=_info(preference, 1))
    if config.stage2:
        answers = augment(inputs, [(w, adapters[w]) for w in models], config.prompts)
        chosen = nearest(inputs, answers, anchors, config, config.k // 2, "stage 2")
        teachers = {adapters[w].info["stage"] for w in models}
        with lab.trained_by(config.trained_by(lab.training, 2)):
            for preference, items, kept in zip(anchors, chosen, held_out[: len(anchors)], strict=True):
                if items:
                    start = adapters[preference]
                    stages = sorted(teachers | {start.info["stage"]})
                    info = _info(preference, 2) | {"start": start.info["stage"], "stages": stages}
                    name = f"paretohqd-{preference}-stage-2"
                    adapters[preference] = lab.fit_demonstrations(name, items, kept, start, info)
    trained = [adapters[w] for w in anchors]
    return Policy.anchors("paretohqd", lab.lm, inputs.objectives, trained, anchors, config.between)


def trained_first(
    anchors: Sequence[Preference], config: ParetoHqDConfig
) -> tuple[list[Preference], list[Preference]]:
    """Return the preferences whose models answer prompts for stage 2, and all those that stage 1 trains: ``anchors`` come first."""
    models = representatives(anchors) if config.stage2 else []
    return models, [*anchors, *(preference for preference in models if preference not in anchors)]


def representatives(anchors: Sequence[Preference]) -> list[Preference]:
    """Return one preference per objective and the one of equal weights, each as in ``anchors`` where it is there."""
    objectives = anchors[0].objectives
    wanted = [Preference.one_hot(objective, objectives) for objective in objectives]
    if len(objectives) > 1:
        wanted.append(Preference.uniform(objectives))
    return [next((a for a in anchors if np.allclose(a.array(), w.array())), w) for w in wanted]


def nearest(
    inputs: Inputs,
    dataset: ScoredDataset,
    preferences: Sequence[Preference],
    config: ParetoHqDConfig,
    k: int,
    stage: str,
) -> list[list[Demonstration]]:
    """Return for each preference the k responses nearest to its ray, and keep the figures of the choice in the run folder.

    Scores that cannot be compared across prompts are taken less the mean over the responses of their prompt in ``dataset``. In
    stage 2 there are none where no response can be used, and a message reports it.

    Raises:
        DataError: nothing to choose from before stage 2, or too many scores are missing; names the stage.
    """
    lab, where = inputs.lab, f"ParetoHqD, {stage}"
    prompt_means = PromptMeans.of(dataset, inputs.scorers)
    if prompt_means.objectives:
        lab.say(f"{where}: {prompt_means}")
    if stage != "stage 2":
        prompt_means.check(where)
    dataset = prompt_means.centred(dataset)

    def collapsed(text: str) -> bool:
        return is_collapsed(lab.lm.encode_response(text))

    usable = candidates(dataset, collapsed if config.drop_collapsed else None)
    left_out = ", ".join(f"{count} {reason}" for reason, count in usable.dropped.items())
    if left_out:
        lab.say(f"{where}: responses left out: {left_out}")
    if len(usable.rows) == 0:
        reason = f"no usable response (left out: {left_out or 'none'})"
        if stage == "stage 2":
            lab.say(f"{where}: {reason}; the adapters of stage 1 are kept")
            return [[] for _ in preferences]
        raise DataError(
            f"{where}: {reason}; give scored responses, or set drop_collapsed: false for short ones"
        )
    selection = select(
        usable.scores,
        np.array([preference.array() for preference in preferences]),
        config.rays(k),
        objectives=dataset.objectives,
        where=where,
        origin=partial(usable.where, dataset),
    )
    _report(lab, selection, dataset.objectives, len(usable.rows), stage)

    def demonstration(n: int) -> Demonstration:
        row = dataset.rows[usable.rows[n]]
        return Demonstration(row.prompt, row.responses[usable.responses[n]], where=usable.where(dataset, n))

    return [[demonstration(n) for n in chosen] for chosen in selection.chosen]


def augment(inputs: Inputs, models: Sequence[tuple[Preference, Adapter]], count: int) -> ScoredDataset:
    """Return ``count`` training prompts with the answers of every model, scored on every objective; kept as a stage."""
    lab, train, sampling, endpoint = inputs.lab, inputs.train, inputs.sampling, inputs.endpoint
    places, seed = train.distinct(), lab.training.seed
    order = np.random.default_rng(seed).permutation(len(places))[:count]
    rows = taken(train.rows, places[np.sort(order)])
    asked = [row.prompt for row in rows]
    scorers = scorers_of(inputs, train.objectives, STAGE_2)
    key = fingerprint(
        [row.key for row in rows],
        [adapter.fingerprint for _, adapter in models],
        [scorer.fingerprint for scorer in scorers],
        [lab.lm.fingerprint, str(lab.lm.model.dtype), sampling.identity(), seed],
        *identity(endpoint),
    )

    def make(folder: Path) -> None:
        drawn = [
            _answer(inputs, model, asked, seed * 1_000_003 + number * len(asked))
            for number, model in enumerate(models)
        ]
        made = []
        for row, *answered in zip(rows, *drawn, strict=True):
            texts = [(text, cut) for text, cut in answered if text]
            made.append(
                Row(row.prompt, tuple(t for t, _ in texts), {}, {}, tuple(c for _, c in texts), row.source)
            )
        empty = len(models) * len(rows) - sum(len(row.responses) for row in made)
        if empty:
            lab.say(
                f"ParetoHqD, stage 2: {empty} of {len(models) * len(rows)} answers are empty and were left out"
            )
        answers = ScoredDataset((), tuple(made))
        score_dataset(answers, scorers, lab.score_cache).write(folder / "answers.jsonl.gz")

    folder = lab.stage("answers/paretohqd", key, make)
    return ScoredDataset.read(folder / "answers.jsonl.gz", train.objectives)


def _answer(
    inputs: Inputs, model: tuple[Preference, Adapter], prompts: Sequence[Prompt], seed: int
) -> list[tuple[str, bool]]:
    """Return each answer of an adapter and whether it was cut; answer n is drawn with ``seed + n``, and parts are kept."""
    lab, sampling, (preference, adapter) = inputs.lab, inputs.sampling, model
    if inputs.endpoint is not None:
        seeds, title = [seed + n for n in range(len(prompts))], f"sampling stage 1 at {preference}"
        answers = ask_stage(lab, inputs.endpoint, adapter, prompts, sampling, seeds, title)
        return [(answer.text, answer.truncated) for answer in answers]
    policy = Policy.anchors(
        f"stage 1 at {preference}", lab.lm, preference.objectives, [adapter], [preference]
    )
    who = [adapter.fingerprint, lab.lm.fingerprint, str(lab.lm.model.dtype)]

    def plan(numbers: range) -> tuple[str, Callable[[], list[Drawn]]]:
        part = prompts[numbers.start : numbers.stop]
        texts = [[[message.role, message.content] for message in prompt] for prompt in part]

        def draw() -> list[Drawn]:
            seeds = [seed + number for number in numbers]
            responses = policy.generate(part, [preference] * len(part), sampling, seeds)
            return [(response.text, response.truncated) for response in responses]

        return fingerprint(who, texts, vars(sampling), seed + numbers.start), draw

    folder = lab.folder / "cache" / "answers"
    return [(text, cut) for text, cut in draw_in_parts(folder, len(prompts), part_size(sampling), plan)]


def scored(inputs: Inputs, dataset: ScoredDataset, stage: str) -> ScoredDataset:
    """Return the data with scores for the objectives that have none at all; those of the others stay as they are.

    Raises:
        ConfigError: such an objective has no scorer; the message names stage and objective.
    """
    silent = [
        objective
        for objective in dataset.objectives
        if not any(objective in row.scores for row in dataset.rows)
    ]
    if not silent:
        return dataset
    scorers = scorers_of(inputs, silent, stage)
    return inputs.lab.team.once(lambda: score_dataset(dataset, scorers, inputs.lab.score_cache))


def scorers_of(inputs: Inputs, objectives: Sequence[str], stage: str) -> list[Scorer]:
    """Return the scorer of each objective, in their order, or raise ConfigError naming stage and objective."""
    cure = " (to end after stage 1 on data that have scores, set stage2: false)"
    return inputs.scorers_of(objectives, f"ParetoHqD, {stage}", cure)


def _info(preference: Preference, number: int) -> dict[str, Any]:
    return {"method": "paretohqd", "preference": preference.as_dict(), "stage_number": number}


def _report(lab: Lab, selection: Selection, objectives: Sequence[str], count: int, stage: str) -> None:
    """Log what was chosen, and write the figures of the choice to ``selections/``."""
    figures = selection.to_dict(objectives)
    name = lab.own_name(f"selections/paretohqd-{stage.replace(' ', '-')}", fingerprint(figures))
    write_json(lab.folder / f"{name}.json", figures)
    shared = selection.overlap()
    message = (
        f"ParetoHqD, {stage}: {len(selection.pool)} of {count} responses in {selection.num_layers} layer"
    )
    message += "s" * (selection.num_layers > 1)
    if not np.isnan(shared):
        message += f"; neighbouring preferences share {shared:.0%} of their responses"
    lab.say("; ".join([message, *selection.notes]))


def work(run: Work, name: str, config: ParetoHqDConfig, training: Training) -> list[Stage]:
    """Return the stages that train on the data, answer prompts, and continue on the answers."""
    anchors = [preference.over(run.objectives) for preference in run.preferences]
    models, wanted = trained_first(anchors, config)
    data = run.demonstrations("train")
    held_out = replace(data, count=config.held_out)
    fits = Fits(config.trained_by(training, 1), data, training.rank, len(wanted), held_out)
    stages = [run.trained(f"train: {name}, stage 1", "one per preference", fits)]
    if not config.stage2:
        return stages
    answers = len(models) * min(config.prompts, run.rows["train"].count)
    drawn = run.decoding(answers, run.rows["train"], training.rank)
    what = f"{answers:.0f} answers of {len(models)} models"
    stages.append(Stage(f"answers: {name}", what, decodings=(drawn,), judged=answers))
    answered = replace(data, response=run.answer)
    fits = Fits(config.trained_by(training, 2), answered, training.rank, len(anchors), held_out)
    return [*stages, run.trained(f"train: {name}, stage 2", "one per preference", fits)]


METHOD = Method(
    ParetoHqDConfig,
    train,
    work,
    Card(
        title="ParetoHqD",
        paper="arXiv 2504.16628",
        needs="scored responses, and scorers for stage 2",
        runs="N, each in two stages",
        enters="gates: one adapter per preference, the nearest is used",
        family="scores",
    ),
    traits=lambda config: Traits("preference", between=config.between),
    staged=True,
)
