"""A whole run: data -> score -> train -> front -> report, every stage resumable from the run folder."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from paretune import data
from paretune.adapter import Adapter
from paretune.config import RunConfig
from paretune.dataset import ScoredDataset, concatenate
from paretune.errors import ConfigError, DataError
from paretune.files import fingerprint, write_json, write_text
from paretune.fronts import write_front
from paretune.lab import Lab
from paretune.lm import computing, load
from paretune.methods.dpo import DPOConfig, soup
from paretune.methods.dpo_lw import DPOLWConfig, dpo_lw
from paretune.methods.mod import MODConfig, mod
from paretune.methods.modpo import MODPOConfig, modpo
from paretune.methods.morlhf import MORLHFConfig, morlhf
from paretune.methods.panacea import PanaceaConfig, panacea
from paretune.methods.paretohqd import ParetoHqDConfig, paretohqd
from paretune.methods.ric import RiCConfig, ric
from paretune.methods.sipo import SIPOConfig, sipo
from paretune.mixture import Mixing
from paretune.policy import Policy
from paretune.preference import Preference
from paretune.sample import sample_dataset, sample_remotely
from paretune.score import Scorer, Standardisation, build, score_dataset
from paretune.score_cache import ScoreCache
from paretune.shard import Share, shard_weights, start

PACKAGES = ("paretune", "torch", "transformers", "accelerate", "moocore", "numpy", "safetensors")


def run(config: RunConfig) -> Path:
    """Do everything the config asks for and return the path of the report.

    Finished stages found in the run folder under the same inputs are reused; a killed stage goes on from its checkpoint.

    Raises:
        ParetuneError: what cannot be done, with the cure.
    """
    lab = opened(config)
    splits, scorers = prepare_data(config, lab)
    objectives = splits["train"].objectives
    preferences = config.grid(objectives)
    config.extrapolations(objectives)  # a wrong one is said before training, not after it
    return finish(config, lab, splits, scorers, dict.fromkeys(config.methods, preferences))


def finish(
    config: RunConfig,
    lab: Lab,
    splits: dict[str, ScoredDataset],
    scorers: Sequence[Scorer],
    trained_at: Mapping[str, Sequence[Preference]],
    measured_at: Mapping[str, Sequence[Preference]] | None = None,
) -> Path:
    """Train methods, measure them side by side and return the path of the report; what is finished is reused.

    Args:
        config, lab: of the run.
        splits, scorers: of :func:`prepare_data`.
        trained_at: method -> its preferences.
        measured_at: method -> preferences to measure it at; by default as the config says.
    """
    policies = {}
    for name, preferences in trained_at.items():
        with lab.trained_by(config.training(name)):
            policies[name] = replace(train(name, config, lab, splits, preferences, scorers), name=name)
    name, settings = endpoint_settings(config)
    with lab.trained_by(config.training(name)):
        endpoints = replace(soup(lab, splits["train"], splits["validation"], settings), name="endpoints")
    if lab.team.first:
        for name, policy in policies.items():
            policy.save(lab.folder / "policies" / name)
    return write_front(config, lab, policies, endpoints, splits, scorers, measured_at)


def run_front(config: RunConfig, adapters: Mapping[str, Adapter], by: Sequence[str], mixing: Mixing) -> Path:
    """Measure given adapters, one an objective, served as a soup, by MOD, or both; return the path of the report.

    The distance between the two at each preference says where the soup, which costs one model, will do.

    Args:
        config: data, scorers, sampling and preferences; its methods are not trained.
        adapters: objective -> adapter.
        by: ``soup``, ``mod``, or both.
        mixing: the rule of MOD.

    Raises:
        ConfigError: an objective without adapter, or an adapter without objective.
        ModelError: an adapter of another base model, or of another divergence.
    """
    lab = opened(config)
    splits, scorers = prepare_data(config, lab)
    objectives = splits["train"].objectives
    if set(adapters) != set(objectives):
        raise ConfigError(
            f"adapters for {', '.join(adapters) or 'nothing'}; expected one for each of the objectives {', '.join(objectives)}"
        )
    members = [adapters[objective] for objective in objectives]
    for objective, adapter in zip(objectives, members, strict=True):
        adapter.check_base(lab.lm.fingerprint, f"the adapter for {objective}")
    soup_ = Policy.soup("soup", lab.lm, objectives, members)
    policies = {"soup": soup_, "mod": Policy.mod("mod", lab.lm, objectives, members, mixing)}
    return write_front(
        config, lab, {name: policies[name] for name in by}, replace(soup_, name="endpoints"), splits, scorers
    )


def opened(config: RunConfig, shared: bool = False) -> Lab:
    """Load the model and open the run folder, with the resolved settings and the versions in it.

    ``shared``: other processes work in the folder at the same time, see :class:`paretune.lab.Lab`.
    """
    folder, (device, kind) = config.run_folder, computing(config.dtype, config.device)
    first = start(device, config.processes).is_main_process
    set_seed(
        config.seed, device_specific=True
    )  # of global generators, which nothing here draws from but a model might
    if first:
        write_text(folder / "config.yaml", _yaml(config))
        write_json(folder / "versions.json", versions())
    if config.sharding == "none":
        lm = load(config.model, config.dtype, config.device)
    else:
        lm = load(
            config.model, str(kind).removeprefix("torch."), "cpu"
        )  # layer by layer to the device, as shards
        shard_weights(lm.model, device)
    lab = Lab(lm, folder, config.training(), tuple(config.trackers), shared)
    for (
        name
    ) in config.methods:  # what cannot be divided is said before anything is done, not after the first stages
        own = config.training(name)
        Share.of(lab.team, own.accumulate, own.batch_pairs)
    return lab


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
        splits[name] = lab.team.once(partial(score_dataset, splits[name], silent, cache))
    for name, part in splits.items():
        kept = [objective for objective in objectives if objective in part.objectives]
        splits[name] = part.select(kept) if name != "test" else part
        if lab.team.first:
            splits[name].write(lab.folder / "data" / f"{name}.jsonl.gz")
    missing = [objective for objective in objectives if objective not in splits["train"].objectives]
    if missing:
        raise DataError(
            f"the training data say nothing about the objective {missing[0]!r}; add a scorer for it under score:"
        )
    if lab.team.first and (scored := _fully_scored(splits["train"])):
        write_json(
            lab.folder / "scores" / "standardisation.json",
            Standardisation.of(splits["train"].select(scored)).to_dict(),
        )
    return splits, scorers


def load_splits(config: RunConfig) -> dict[str, ScoredDataset]:
    """Load the sources and split them by prompt."""

    def source(spec: Any, split: str | None) -> ScoredDataset:
        if isinstance(spec, list) and spec:
            return concatenate([source(each, split) for each in spec])
        if isinstance(spec, str) and spec in QUICKSTART:
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
        how = (config.data.sample, config.sampling, config.seed, parts)
        if config.endpoint is None:
            sampled = sample_dataset(lab.lm, asked, *how)
        else:
            remotely = partial(sample_remotely, config.endpoint, asked, *how)
            # Where the weights are divided all are here, and one asks; else the first is here alone.
            sampled, _ = lab.team.once(remotely) if lab.team.sharded else remotely()
        drawn = iter(sampled.rows)
        rows = tuple(row if row.responses else next(drawn) for row in dataset.rows)
        replace(dataset, rows=rows).write(folder / "sampled.jsonl.gz")

    who = lab.lm.fingerprint if config.endpoint is None else ["endpoint", config.endpoint.model]
    key = fingerprint(dataset.fingerprint, who, config.data.sample, config.sampling.identity(), config.seed)
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
    endpoint = config.endpoint_of(name)
    if isinstance(settings, DPOConfig):
        return soup(lab, *parts, settings)
    if isinstance(settings, MODConfig):
        return mod(lab, *parts, settings)
    if isinstance(settings, PanaceaConfig):
        return panacea(lab, *parts, settings)
    if isinstance(settings, DPOLWConfig):
        return dpo_lw(lab, *parts, preferences, settings)
    if isinstance(settings, ParetoHqDConfig):
        return paretohqd(lab, *parts, preferences, scorers, config.sampling, settings, endpoint)
    if isinstance(settings, RiCConfig):
        return ric(lab, *parts, scorers, config.sampling, settings, endpoint)
    if isinstance(settings, SIPOConfig):
        return sipo(lab, *parts, preferences, config.sampling, settings, endpoint)
    if isinstance(settings, MORLHFConfig):
        return morlhf(lab, splits["train"], preferences, scorers, config.sampling, settings)
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
    name, settings = endpoint_settings(config)
    with lab.trained_by(config.training(name)):
        ends = soup(lab, splits["train"], splits["validation"], settings)
    return replace(ends, name="endpoints")


def endpoint_settings(config: RunConfig) -> tuple[str, DPOConfig]:
    """Return under which name and settings the single-objective models are trained: those of the first soup of the config."""
    methods = {name: config.method(name) for name in config.methods}
    found = next(((name, own) for name, own in methods.items() if isinstance(own, DPOConfig)), None)
    if found is not None:
        return found
    # MORLHF's beta is in deviations of reward, DPO's in log-odds.
    others = ParetoHqDConfig | RiCConfig | MORLHFConfig
    betas = (own.beta for own in methods.values() if not isinstance(own, others))
    return "dpo-soup", DPOConfig(beta=next(betas, DPOConfig().beta))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def _yaml(config: RunConfig) -> str:
    import yaml

    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
