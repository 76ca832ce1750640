"""A whole run: data -> score -> train -> front -> report, every stage resumable from the run folder."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from paretune import data, report
from paretune.adapter import Adapter
from paretune.audit import audit
from paretune.config import RunConfig
from paretune.dataset import ScoredDataset, concatenate
from paretune.errors import ConfigError, DataError
from paretune.evaluate import Evaluation, Judgement, Point, evaluate, judge, mean_interval
from paretune.files import fingerprint, read_json, write_json, write_text
from paretune.front import reference_point
from paretune.inspect import inspect
from paretune.lab import Lab, StageRecord
from paretune.lm import load
from paretune.methods import METHODS
from paretune.methods.dpo import DPOConfig, soup
from paretune.methods.dpo_lw import DPOLWConfig, dpo_lw
from paretune.methods.mod import MODConfig, mod
from paretune.methods.modpo import MODPOConfig, modpo
from paretune.methods.panacea import PanaceaConfig, panacea
from paretune.methods.paretohqd import ParetoHqDConfig, paretohqd
from paretune.methods.ric import RiCConfig, ric
from paretune.methods.sipo import SIPOConfig, sipo
from paretune.policy import Policy
from paretune.preference import Preference
from paretune.rows import Row
from paretune.sample import sample_dataset
from paretune.score import Scorer, Standardisation, build, score_dataset
from paretune.score_cache import ScoreCache

PACKAGES = ("paretune", "torch", "transformers", "accelerate", "moocore", "numpy", "safetensors")


def run(config: RunConfig) -> Path:
    """Do everything the config asks for and return the path of the report.

    Finished stages found in the run folder under the same inputs are reused; a killed stage goes on from its checkpoint.

    Raises:
        ParetuneError: what cannot be done, with the cure.
    """
    folder = config.run_folder
    write_text(folder / "config.yaml", _yaml(config))
    write_json(folder / "versions.json", versions())
    lm = load(config.model, config.dtype, config.device)
    lab = Lab(lm, folder, config.training(), tuple(config.trackers))
    splits, scorers = prepare_data(config, lab)
    objectives = splits["train"].objectives
    preferences = config.grid(objectives)
    config.extrapolations(objectives)  # a wrong one is said before training, not after it
    policies = {}
    for name in config.methods:
        with lab.trained_by(config.training(name)):
            policies[name] = train(name, config, lab, splits, preferences, scorers)
    endpoints = _endpoints(config, lab, splits)
    for name, policy in policies.items():
        policy.save(folder / "policies" / name)
    judgement = measure(config, lab, policies, endpoints, preferences, splits["test"], scorers)
    facts = _facts(config, lab, judgement, policies, splits)
    _audit(config, lab, judgement, policies, splits["test"], facts)
    write_json(folder / "front.json", facts)
    report.write_picture(facts, folder / "front.png")
    report.write_card(facts, folder / "README.md")
    return report.write_report(facts, folder)


# Data and scores


def prepare_data(config: RunConfig, lab: Lab) -> tuple[dict[str, ScoredDataset], list[Scorer]]:
    """Load, sample, split and score the data; return the splits (train, validation, test) and the scorers.

    Raises:
        DataError, ConfigError, ScoreError: see the stages.
    """
    splits = load_splits(config)
    for name in ("train", "validation"):
        splits[name] = _with_responses(splits[name], config, lab, name)
    scorers, cache = _scorers(config, lab, splits), ScoreCache(lab.folder / "cache" / "scores.sqlite")
    objectives = _objectives(config, splits, scorers)
    for name in ("train", "validation"):
        silent = [s for s in scorers if s.objective in objectives and not _speaks(splits[name], s.objective)]
        splits[name] = score_dataset(splits[name], silent, cache)
    for name, part in splits.items():
        kept = [objective for objective in objectives if objective in part.objectives]
        splits[name] = part.select(kept) if name != "test" else part
        splits[name].write(lab.folder / "data" / f"{name}.jsonl.gz")
    missing = [objective for objective in objectives if objective not in splits["train"].objectives]
    if missing:
        raise DataError(
            f"the training data say nothing about the objective {missing[0]!r}; add a scorer for it under score:"
        )
    if scored := _fully_scored(splits["train"]):
        write_json(
            lab.folder / "scores" / "standardisation.json",
            Standardisation.of(splits["train"].select(scored)).to_dict(),
        )
    return splits, scorers


def load_splits(config: RunConfig) -> dict[str, ScoredDataset]:
    """Load the sources and split them by prompt."""

    def source(spec: Any, split: str | None) -> ScoredDataset:
        if spec in QUICKSTART:
            return ScoredDataset.read(quickstart_data(spec))
        return data.load(spec, split, path=config.data.path)

    dataset = source(config.data.source, config.data.split)
    if config.data.limit:
        dataset = replace(dataset, rows=dataset.rows[: config.data.limit])
    fractions = dict(config.data.splits)
    if config.data.test is not None:
        fractions.pop("test", None)
        parts = dataset.split(fractions, config.seed)
        return {**parts, "test": source(config.data.test, None)}
    return dataset.split(fractions, config.seed)


QUICKSTART = {"quickstart": "answers.jsonl.gz", "quickstart-prompts": "prompts.jsonl"}
"""Sources that ship with the package: prompts with four responses of the embedded model each, and prompts held out."""


def quickstart_data(name: str = "quickstart") -> Path:
    """Return the file of a source that ships with the package."""
    return Path(str(files("paretune") / "quickstart" / QUICKSTART[name]))


def _with_responses(dataset: ScoredDataset, config: RunConfig, lab: Lab, split: str) -> ScoredDataset:
    """Draw responses from the base model for the rows that have none."""
    bare = [row for row in dataset.rows if not row.responses]
    if not bare:
        return dataset
    if not config.data.sample:
        raise DataError(
            f"{bare[0].source or 'the data'}: {len(bare)} of {len(dataset.rows)} rows have no response; set data.sample to draw "
            "some from the base model, for example data.sample=4"
        )

    def make(folder: Path) -> None:
        parts, asked = lab.folder / "cache" / "samples", replace(dataset, rows=tuple(bare))
        drawn = iter(
            sample_dataset(lab.lm, asked, config.data.sample, config.sampling, config.seed, parts).rows
        )
        rows = tuple(row if row.responses else next(drawn) for row in dataset.rows)
        replace(dataset, rows=rows).write(folder / "sampled.jsonl.gz")

    key = fingerprint(
        dataset.fingerprint, lab.lm.fingerprint, config.data.sample, config.sampling.identity(), config.seed
    )
    return ScoredDataset.read(lab.stage(f"samples/{split}", key, make) / "sampled.jsonl.gz")


def _scorers(config: RunConfig, lab: Lab, splits: dict[str, ScoredDataset]) -> list[Scorer]:
    """Build the scorers; ``head: fit`` fits a Bradley-Terry head on the training labels of its objective."""
    scorers: list[Scorer] = []
    for spec in config.score:
        if spec.get("head") == "fit":
            spec = {**spec, "head": str(_fitted_head(str(spec.get("objective")), lab, splits))}
        scorers.append(build(spec))
    return scorers


def _fitted_head(objective: str, lab: Lab, splits: dict[str, ScoredDataset]) -> Path:
    from paretune.bt import fit_head

    labelled = concatenate([splits["train"], splits["validation"]])

    def make(folder: Path) -> None:
        result = fit_head(labelled, objective, folder / "head")
        lab.say(f"Bradley-Terry head for {objective}: {result}")

    return lab.stage(f"heads/{objective}", fingerprint(labelled.fingerprint, objective), make) / "head"


def _objectives(config: RunConfig, splits: dict[str, ScoredDataset], scorers: Sequence[Scorer]) -> list[str]:
    """Return the names of the run's objectives in order; each needs a scorer, or the front could not be measured."""
    scored = [scorer.objective for scorer in scorers]
    names = list(config.objectives) or list(dict.fromkeys([*splits["train"].objectives, *scored]))
    if len(names) < 2:
        raise ConfigError(
            f"a front needs at least two objectives, got {names}; add scorers under score:, or data with labels"
        )
    for name in names:
        if name not in scored:
            raise ConfigError(
                f"no scorer for the objective {name!r}; add one under score: (it judges the held-out answers)"
            )
    return names


def _speaks(dataset: ScoredDataset, objective: str) -> bool:
    """Tell whether the data hold labels or scores on ``objective``."""
    return any(objective in row.labels or objective in row.scores for row in dataset.rows)


def _fully_scored(dataset: ScoredDataset) -> list[str]:
    return [name for name in dataset.objectives if all(name in row.scores for row in dataset.rows)]


# Training


def train(
    name: str,
    config: RunConfig,
    lab: Lab,
    splits: dict[str, ScoredDataset],
    preferences: Sequence[Preference],
    scorers: Sequence[Scorer],
) -> Policy:
    """Train one method and return its policy."""
    settings, parts = config.method(name), (splits["train"], splits["validation"])
    if isinstance(settings, DPOConfig):
        return soup(lab, *parts, settings)
    if isinstance(settings, MODConfig):
        return mod(lab, *parts, settings)
    if isinstance(settings, PanaceaConfig):
        return panacea(lab, *parts, settings)
    if isinstance(settings, DPOLWConfig):
        return dpo_lw(lab, *parts, preferences, settings)
    if isinstance(settings, ParetoHqDConfig):
        return paretohqd(lab, *parts, preferences, scorers, config.sampling, settings)
    if isinstance(settings, RiCConfig):
        return ric(lab, *parts, scorers, config.sampling, settings)
    if isinstance(settings, SIPOConfig):
        return sipo(lab, *parts, preferences, config.sampling, settings)
    assert isinstance(settings, MODPOConfig)
    if settings.margin == "scores" and settings.margin_scale is None:
        # Raw scores have units; in units of the reference's standard deviation all objectives are alike.
        scale = Standardisation.of(splits["train"])
        settings = replace(
            settings, margin_scale=dict(zip(scale.objectives, (1 / scale.std).tolist(), strict=True))
        )
    return modpo(lab, *parts, preferences, settings)


def _endpoints(config: RunConfig, lab: Lab, splits: dict[str, ScoredDataset]) -> Policy:
    """Return the single-objective DPO policies, between which the chord is drawn: those of the soup where there is one."""
    methods = [config.method(name) for name in config.methods]
    settings = next((own for own in methods if isinstance(own, DPOConfig)), None)
    if settings is None:
        betas = (own.beta for own in methods if not isinstance(own, ParetoHqDConfig | RiCConfig))
        settings = DPOConfig(beta=next(betas, DPOConfig().beta))
    with lab.trained_by(config.training("dpo-soup")):
        ends = soup(lab, splits["train"], splits["validation"], settings)
    return replace(ends, name="endpoints")


# Fronts


def measure(
    config: RunConfig,
    lab: Lab,
    policies: dict[str, Policy],
    endpoints: Policy,
    preferences: Sequence[Preference],
    test: ScoredDataset,
    scorers: Sequence[Scorer],
) -> Judgement:
    """Evaluate every policy, the base model and the single-objective endpoints on the held-out prompts.

    Points are kept in ``fronts/`` under everything that decides them, and shared by policies that compute the same there.
    """
    held_out = _held_out(config, test)
    prompts, ids = [row.prompt for row in held_out], [row.key for row in held_out]
    conditions = fingerprint(
        ids,
        config.sampling.identity(),
        config.evaluate.samples,
        config.seed,
        [s.fingerprint for s in scorers],
        str(lab.lm.model.dtype),
    )
    cache = ScoreCache(lab.folder / "cache" / "scores.sqlite")
    # Preferences that fill one batch are judged together and then kept: a kill loses no more than these.
    together = max(1, config.sampling.batch_size // (len(prompts) * config.evaluate.samples))

    def measured(policy: Policy, asked: Sequence[Preference]) -> Evaluation:
        place = {
            key: lab.folder / "fronts" / f"{fingerprint(conditions, key)}.json"
            for key in map(policy.effective, asked)
        }
        known = {key: Point.from_dict(read_json(file)) for key, file in place.items() if file.is_file()}
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
        )
        for first in range(0, len(asked), together):
            stored = set(known)
            judged(asked[first : first + together])
            for key in known.keys() - stored:
                write_json(place[key], known[key].to_dict())
        evaluation = judged(asked)
        lab.stages.append(
            StageRecord(f"front/{policy.name}", time.perf_counter() - start, len(found) == len(place))
        )
        return evaluation

    objectives = endpoints.objectives
    base = measured(Policy.base(lab.lm, objectives), [Preference.uniform(objectives)])
    ends = measured(endpoints, [Preference.one_hot(objective, objectives) for objective in objectives])
    fine = config.fine_grid(objectives)
    evaluations = {
        name: measured(policy, preferences if policy.mix == "anchors" else fine)
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
    return replace(judge(evaluations, base, ends, reference), extrapolations=extrapolations)


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
        method, name = METHODS[policy["name"]], policy["name"]
        trained = {stage for adapter in policies[name].adapters for stage in _stages(adapter)}
        policy["title"], policy["paper"], policy["enters"] = method.title, method.paper, method.enters
        ratios = {
            k: v for a in policies[name].adapters for k, v in dict(a.info.get("steerability") or {}).items()
        }
        if ratios:
            policy["steerability"] = ratios
        policy["cost"] = {
            "adapters": len(policies[name].adapters),
            "passes": policies[name].passes,
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
    """Return the stages of training that led to an adapter of a run."""
    return list(adapter.info.get("stages") or [adapter.info["stage"]])


def _trained_tokens(lab: Lab, stage: str) -> int:
    """Return the tokens that went through forward and backward in a stage of training."""
    return int(sum(record["tokens"] for record in read_json(lab.folder / stage / "history.json")))


def _meaning(spec: dict[str, Any]) -> str:
    rest = {key: value for key, value in spec.items() if key != "objective"}
    return ", ".join(f"{key} {value}" for key, value in rest.items())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def _yaml(config: RunConfig) -> str:
    import yaml

    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
