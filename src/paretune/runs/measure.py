"""The last stages of a run: policies are measured side by side on held-out prompts, and the report is written."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Row
from paretune.data.summary import inspect
from paretune.evaluation.evaluate import Evaluation, Point, evaluate
from paretune.evaluation.judge import Judgement, judge, mean_interval
from paretune.evaluation.remote import drawn_by
from paretune.evaluation.token_kl import audit
from paretune.fronts.front import reference_point
from paretune.methods import METHODS
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy
from paretune.reports.card import write_card
from paretune.reports.picture import write_picture
from paretune.reports.report import write_report
from paretune.runs.config import RunConfig
from paretune.scoring.cache import ScoreCache
from paretune.scoring.scorer import Scorer
from paretune.training.lab import Lab
from paretune.training.stages import StageRecord


def write_front(
    config: RunConfig,
    lab: Lab,
    policies: dict[str, Policy],
    endpoints: Policy,
    splits: dict[str, ScoredDataset],
    scorers: Sequence[Scorer],
    asked: Mapping[str, Sequence[Preference]] | None = None,
) -> Path:
    """Measure the policies, write ``front.json``, picture, model card and report, and return the report's path.

    Args:
        config: of the run.
        lab: model and run folder.
        policies: name -> policy; anchors are measured at the run's preferences, others at the fine grid.
        endpoints: the single-objective models as a soup, between which the chord is drawn.
        splits: train (for the report), validation and test.
        scorers: one an objective.
        asked: policy name -> preferences to measure it at instead.
    """
    judgement = measure(config, lab, policies, endpoints, splits["test"], scorers, asked or {})
    facts = _facts(config, lab, judgement, policies, splits)
    _audit(config, lab, judgement, policies, splits["test"], facts)
    return lab.team.once(partial(_write, facts, lab.folder))


def _write(facts: dict[str, Any], folder: Path) -> Path:
    write_json(folder / "front.json", facts)
    write_picture(facts, folder / "front.png")
    write_card(facts, folder / "README.md")
    return write_report(facts, folder)


def measure(
    config: RunConfig,
    lab: Lab,
    policies: dict[str, Policy],
    endpoints: Policy,
    test: ScoredDataset,
    scorers: Sequence[Scorer],
    asked: Mapping[str, Sequence[Preference]],
) -> Judgement:
    """Evaluate every policy, the base model and the single-objective endpoints on the held-out prompts."""
    objectives = endpoints.objectives
    measured = partial(measure_points, config, lab, test, scorers)
    base = measured(Policy.base(lab.lm, objectives), [Preference.uniform(objectives)])
    ends = measured(endpoints, [Preference.one_hot(objective, objectives) for objective in objectives])
    evaluations = {
        name: measured(policy, asked.get(name) or measured_at(config, policy))
        for name, policy in policies.items()
    }
    beyond = config.extrapolations(objectives)
    extrapolations = {
        name: measured(policy, beyond) for name, policy in policies.items() if beyond and policy.extrapolates
    }
    stated = config.evaluate.reference_point
    if stated is None:
        reference = reference_point(base.front, ends.front, *(e.front for e in evaluations.values()))
    else:
        reference = np.array([_stated(stated, objective) for objective in objectives])
    return replace(
        judge(evaluations, base, ends, reference, config.evaluate.resamples), extrapolations=extrapolations
    )


def measured_at(config: RunConfig, policy: Policy) -> list[Preference]:
    """Return where a policy is measured: anchors at the preferences of the run, others at the fine grid."""
    return (config.grid if policy.mix == "anchors" else config.fine_grid)(policy.objectives)


def measure_points(
    config: RunConfig,
    lab: Lab,
    test: ScoredDataset,
    scorers: Sequence[Scorer],
    policy: Policy,
    asked: Sequence[Preference],
) -> Evaluation:
    """Evaluate one policy at the preferences ``asked`` on the held-out prompts.

    Points are kept in ``fronts/`` under everything that decides them, and shared by policies that compute the same there.
    """
    held_out = _held_out(config, test)
    prompts, ids = [row.prompt for row in held_out], [row.key for row in held_out]
    endpoint = config.endpoint
    draw, who = None, []
    if endpoint is not None and policy.name in endpoint.policies:
        draw = drawn_by(endpoint, policy, lab.folder / "cache" / "samples", lab.team)
        who = ["endpoint", endpoint.policies[policy.name]]  # it has its own generator
    conditions = fingerprint(
        ids,
        config.sampling.identity(),
        config.evaluate.samples,
        config.seed,
        [s.fingerprint for s in scorers],
        str(lab.lm.model.dtype),
        *who,
    )
    cache = ScoreCache(lab.folder / "cache" / "scores.sqlite")
    # Preferences that fill one batch are judged together and then kept: a kill loses no more than these.
    together = max(1, config.sampling.batch_size // (len(prompts) * config.evaluate.samples))
    if draw is not None:
        together = len(asked)  # answers of a server are kept as they come

    place = {
        key: lab.folder / "fronts" / f"{fingerprint(conditions, key)}.json"
        for key in map(policy.effective, asked)
    }
    known = lab.team.once(
        lambda: {key: Point.from_dict(read_json(file)) for key, file in place.items() if file.is_file()}
    )
    found = set(known)
    start = time.perf_counter()
    judged = partial(
        evaluate,
        policy,
        prompts=prompts,
        prompt_ids=ids,
        scorers=scorers,
        sampling=config.sampling,
        samples=config.evaluate.samples,
        seed=config.seed,
        cache=cache,
        known=known,
        team=lab.team,
        draw=draw,
    )
    for first in range(0, len(asked), together):
        stored = set(known)
        judged(asked[first : first + together])
        for key in known.keys() - stored if lab.team.first else ():
            write_json(place[key], known[key].to_dict())
    evaluation = judged(asked)
    lab.stages.append(
        StageRecord(f"front/{policy.name}", time.perf_counter() - start, len(found) == len(place))
    )
    return evaluation


def _held_out(config: RunConfig, test: ScoredDataset) -> list[Row]:
    """Return the rows that fronts are measured on; a prompt that stands twice would count twice in every interval."""
    rows = {row.key: row for row in test.rows}
    return list(rows.values())[: config.evaluate.prompts or None]


def _audit(
    config: RunConfig,
    lab: Lab,
    judgement: Judgement,
    policies: dict[str, Policy],
    test: ScoredDataset,
    facts: dict[str, Any],
) -> None:
    """Add to the facts of each policy that mixes distributions its distance from the soup of the same adapters."""
    prompts = [row.prompt for row in _held_out(config, test)]
    for entry in facts["policies"]:
        policy, evaluation = policies[entry["name"]], judgement.evaluations[entry["name"]]
        if policy.mix != "mod":
            continue
        soup_ = Policy.soup("soup", lab.lm, policy.objectives, policy.adapters)
        pairs = [(policy.effective(w), soup_.effective(w)) for w in evaluation.preferences]
        key = fingerprint(pairs, [point.responses for point in evaluation.points])

        def make(folder: Path, policy: Policy = policy, other: Policy = soup_) -> None:
            asked, points = (
                judgement.evaluations[policy.name].preferences,
                judgement.evaluations[policy.name].points,
            )
            found = audit(policy, other, asked, points, prompts)
            write_json(folder / "kl.json", [values.tolist() for values in found])

        values = read_json(lab.stage(f"audits/{entry['name']}", key, make) / "kl.json")
        entry["soup_kl"] = [mean_interval(np.array(each)).to_dict() for each in values]


def _stated(reference: dict[str, float], objective: str) -> float:
    if objective not in reference:
        raise ConfigError(
            f"evaluate.reference_point has no value for {objective!r}; give one for every objective"
        )
    return reference[objective]


def _facts(
    config: RunConfig,
    lab: Lab,
    judgement: Judgement,
    policies: dict[str, Policy],
    splits: dict[str, ScoredDataset],
) -> dict[str, Any]:
    """Return all that the report, the picture and the model card are made of (``front.json``)."""
    texts = list({row.key: row.prompt[-1].content for row in splits["test"].rows}.values())
    facts = judgement.to_dict(texts, config.evaluate.shown)
    seconds = {stage.name: stage.seconds for stage in lab.stages}
    for policy in facts["policies"]:
        name = policy["name"]
        method = METHODS.get(config.kind(name))
        trained = {stage for adapter in policies[name].adapters for stage in _stages(adapter)}
        if method is not None:
            policy["title"], policy["paper"], policy["enters"] = method.title, method.paper, method.enters
            if config.kind(name) != name:
                policy["title"] += f" ({name})"
        ratios = {
            k: v for a in policies[name].adapters for k, v in dict(a.info.get("steerability") or {}).items()
        }
        if ratios:
            policy["steerability"] = ratios
        for adapter in policies[name].adapters:
            policy |= {key: adapter.info[key] for key in ("online", "retention") if adapter.info.get(key)}
        policy["cost"] = {"adapters": len(policies[name].adapters), "passes": policies[name].passes}
        if all((lab.folder / stage).is_dir() for stage in trained) and trained:
            policy["cost"] |= {
                "runs": len(trained),
                "seconds": sum(seconds.get(stage, 0.0) for stage in trained),
                "tokens": sum(_trained_tokens(lab, stage) for stage in trained),
            }
    meanings = {str(spec.get("objective")): _meaning(spec) for spec in config.score}
    return {
        "name": config.name,
        "version": importlib.metadata.version("paretune"),
        "created": date.today().isoformat(),
        "model": config.model,
        **facts,
        "objectives_info": {objective: meanings.get(objective, "") for objective in facts["objectives"]},
        "sampling": {**vars(config.sampling), "samples": config.evaluate.samples},
        "data": inspect(splits["train"]).to_dict(),
        "splits": {name: len({row.key for row in part.rows}) for name, part in splits.items()},
        "stages": [vars(stage) for stage in lab.stages],
        "scoring_forwards": lab.scoring_forwards,
        "licence": "",
    }


def _stages(adapter: Adapter) -> list[str]:
    """Return the stages of training that led to an adapter; none where it does not say (it may be of another maker)."""
    return list(adapter.info.get("stages") or filter(None, [adapter.info.get("stage")]))


def _trained_tokens(lab: Lab, stage: str) -> int:
    """Return the tokens that went through forward and backward in a stage of training."""
    return int(sum(record["tokens"] for record in read_json(lab.folder / stage / "history.json")))


def _meaning(spec: dict[str, Any]) -> str:
    rest = {key: value for key, value in spec.items() if key != "objective"}
    return ", ".join(f"{key} {value}" for key, value in rest.items())
