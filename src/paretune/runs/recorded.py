"""The record of a run: what it measured, with the facts of methods, costs, data and scorers that reports need."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from datetime import date
from typing import Any

from typing_extensions import NotRequired, TypedDict

from paretune.core.files import read_json
from paretune.core.meter import counts_of, current, spent_of
from paretune.core.work_log import said_beforehand
from paretune.data.dataset import ScoredDataset
from paretune.data.summary import inspect
from paretune.evaluation.judge import Judgement
from paretune.fronts.record import FORMAT, Cost, FrontRecord, MeasuredPolicy, Stage
from paretune.fronts.record_facts import DataSummary, SaidPart, ScorerFacts
from paretune.methods import METHODS
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy
from paretune.reports.beside import HISTORY
from paretune.runs.config import RunConfig
from paretune.runs.scores import responses_scored, scorer_cautions, thought_cautions
from paretune.scoring.meaning import meaning
from paretune.training.lab import Lab
from paretune.training.stages import StageRecord


class TrainedStep(TypedDict):
    """What is read of a record in ``history.json``: the tokens of its step, and those that were sampled for it, where any are."""

    tokens: float
    sampled_tokens: NotRequired[float]


def policy_entry(config: RunConfig, lab: Lab, judgement: Judgement, policy: Policy) -> MeasuredPolicy:
    """Return a policy's entry of the record, with the facts of its method and its adapters."""
    name = policy.name
    facts: dict[str, Any] = {"cost": _cost(lab, policy)}
    if (method := METHODS.get(config.kind(name))) is not None:
        card = method.card
        title = card.title if config.kind(name) == name else f"{card.title} ({name})"
        facts |= {"title": title, "paper": card.paper, "enters": card.enters}
    steerability: dict[str, float | None] = {}
    for adapter in policy.adapters:
        steerability |= adapter.info.get("steerability") or {}
        facts |= {key: adapter.info[key] for key in ("online", "retention") if adapter.info.get(key)}
    if steerability:
        facts["steerability"] = steerability
    for key in ("conflicts", "floors"):
        if rows := [row for adapter in policy.adapters for row in adapter.info.get(key) or ()]:
            facts[key] = rows
    entry = judgement.recorded_policy(name, bool(policy.anchor_preferences))
    return with_facts(entry, facts)


def _cost(lab: Lab, policy: Policy) -> Cost:
    trained = {stage for adapter in policy.adapters for stage in _stages(adapter)}
    sampled = _sampled_tokens(lab, policy, trained)
    cost: dict[str, Any] = {"adapters": len(policy.adapters), "passes": policy.passes, "sampled": sampled}
    if not trained or not all((lab.folder / stage).is_dir() for stage in trained):
        return Cost(**cost)
    seconds = {stage.name: stage.seconds for stage in lab.stages}
    return Cost(
        **cost,
        runs=len(trained),
        seconds=sum(seconds.get(stage, 0.0) for stage in trained),
        tokens=sum(_trained_tokens(lab, stage) for stage in trained),
    )


def with_facts(entry: MeasuredPolicy, facts: Mapping[str, Any]) -> MeasuredPolicy:
    """Return an entry with more facts, checked as all are."""
    known = {name: getattr(entry, name) for name in entry.model_fields_set}
    return MeasuredPolicy(**known, **facts)


def record_of(
    config: RunConfig,
    lab: Lab,
    judgement: Judgement,
    policies: tuple[MeasuredPolicy, ...],
    splits: dict[str, ScoredDataset],
    scorers: dict[str, ScorerFacts],
) -> FrontRecord:
    """Return all that the report, the picture and the model card are made of."""
    known = {row.key: row.prompt[-1].content for row in splits["test"].rows}
    texts = [known[key] for key in judgement.prompts]
    meanings = {str(spec.get("objective")): meaning(spec) for spec in config.score}
    return FrontRecord(
        format=FORMAT,
        name=config.name,
        version=importlib.metadata.version("paretune"),
        created=date.today().isoformat(),
        model=config.model,
        objectives=judgement.objectives,
        reference_point=tuple(judgement.reference_point.tolist()),
        prompts=tuple(texts[: config.evaluate.shown]),
        num_prompts=judgement.num_prompts,
        base=judgement.recorded_base(),
        policies=policies,
        mixture=judgement.recorded_mixture(),
        comparisons=judgement.recorded_tests(),
        uncompared=tuple(judgement.uncompared),
        cautions=(*judgement.cautions, *scorer_cautions(scorers), *thought_cautions(config, judgement)),
        objectives_info={objective: meanings.get(objective, "") for objective in judgement.objectives},
        scorers={objective: scorers[objective] for objective in judgement.objectives},
        sampling={
            **vars(config.sampling),
            "samples": config.evaluate.samples,
            **({"chat_template": config.chat_template} if config.chat_template else {}),
        },
        data=DataSummary.model_validate(inspect(splits["train"]).to_dict() | {"notes": list(lab.left_out)}),
        splits={name: len({row.key for row in part.rows}) for name, part in splits.items()},
        stages=tuple(Stage(**vars(stage)) for stage in lab.stages),
        rest=_rest(lab),
        said=tuple(SaidPart(**vars(part)) for part in said_beforehand()),
        scoring_forwards=responses_scored(lab.folder),
        licence="",
    )


def _rest(lab: Lab) -> Stage | None:
    """Return what this process spent so far outside of the stages that it made; None outside of a run."""
    if (meter := current()) is None:
        return None
    rest = meter.whole
    for made in lab.stages:
        if not made.reused and made.spent is not None:
            rest = rest.less(counts_of(made.seconds, made.spent))
    return Stage(name="rest", seconds=rest.seconds, reused=False, spent=spent_of(rest))


def _stages(adapter: Adapter) -> list[str]:
    """Return the stages of training that led to an adapter; none where its facts lack them (another tool may have made it)."""
    return list(adapter.info.get("stages") or filter(None, [adapter.info.get("stage")]))


def _sampled_tokens(lab: Lab, policy: Policy, trained: set[str]) -> int | None:
    """Return the tokens that were sampled to train a policy on; None where a stage does not say it, or others trained it."""
    if policy.name not in lab.used:
        return None
    names = trained | {stage.name for stage in lab.used[policy.name]}
    stages = {stage.name: stage for stage in lab.stages if stage.name in names}
    sampled = [_sampled_in(lab, stage) for stage in stages.values()]
    return None if None in sampled else sum(filter(None, sampled))


def _sampled_in(lab: Lab, stage: StageRecord) -> int | None:
    """Return the tokens that were sampled in a stage.

    Training that samples says so step by step, whatever it was killed at; what a stage spent is that of the process which ended it.
    """
    steps = _steps(lab, stage.name) if (lab.folder / stage.name / HISTORY).is_file() else []
    if any("sampled_tokens" in step for step in steps):
        return int(sum(step.get("sampled_tokens", 0) for step in steps))
    return None if stage.spent is None else stage.spent["tokens_sampled"]


def _trained_tokens(lab: Lab, stage: str) -> int:
    """Return the tokens that went through forward and backward in a stage of training."""
    return int(sum(step["tokens"] for step in _steps(lab, stage)))


def _steps(lab: Lab, stage: str) -> list[TrainedStep]:
    return read_json(lab.folder / stage / HISTORY, list[TrainedStep])
