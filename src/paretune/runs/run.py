"""A whole run: data -> score -> train -> front -> report, every stage resumable from the run folder."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from accelerate.utils import set_seed

from paretune.core.errors import ConfigError, ModelError, ParetuneError
from paretune.core.files import fingerprint, read_json, write_json, write_text
from paretune.core.preference import Preference
from paretune.core.progress import announce, stage, stages_of
from paretune.data.dataset import ScoredDataset
from paretune.fronts.record import FILE
from paretune.generation.mixing import Mixing
from paretune.methods.base import Inputs
from paretune.models.adapter import Adapter
from paretune.models.devices import memory_of
from paretune.models.distributed import shard_weights, start
from paretune.models.language_model import LanguageModel, computing, load
from paretune.models.packing import switch_attention
from paretune.models.targets import target_shapes
from paretune.planning.shapes import Shape, of_config
from paretune.policies.alike import alike
from paretune.policies.policy import Policy
from paretune.runs.checks import SHARDED_QUANTISED
from paretune.runs.config import RunConfig
from paretune.runs.forecast import forecast as expect
from paretune.runs.given import keep_given, read_given
from paretune.runs.measure import measured_at as served_at
from paretune.runs.measure import write_front
from paretune.runs.memory import memory_told, settle_checkpointing
from paretune.runs.prepare import Sources, prepare_data, read_sources
from paretune.runs.run_folder import (
    BASE,
    UNNAMED,
    VERSIONS,
    at_work,
    bases_before,
    choices_before,
    refuse_other_run,
    told,
)
from paretune.runs.scorer_usage import keep_usage
from paretune.runs.sizes import check_sizes
from paretune.scoring.scorer import Scorer, release
from paretune.training.lab import Lab

logger = logging.getLogger(__name__)

PACKAGES = ("paretune", "torch", "transformers", "accelerate", "moocore", "numpy", "safetensors")


def run(config: RunConfig, forecast: bool = False) -> Path:
    """Do everything that the config requests and return the path of the report.

    Finished stages in the run folder with the same inputs are reused; a killed stage continues from its checkpoint.

    Args:
        config: Settings of the run.
        forecast: Whether to say first how long it will take on this machine, which is measured once, in seconds.

    Raises:
        ParetuneError: A step cannot be done; the message names the cure.
    """
    config = read_given(config)
    sources = read_sources(config)  # before anything is written
    with at_work(config):
        refuse_other_run(config, sources.objectives)
        config = keep_given(config)
        with told(config) as log, memory_told(config, sources.splits):
            unplanned = ""
            if forecast and log is not None:
                try:
                    expected = expect(config, sources.splits)
                    log.plan(expected.parts)
                    announce(expected.sentence)
                except ParetuneError as error:
                    unplanned = str(error)
            with stage("start"):
                lab = opened(config)
                settle_checkpointing(config, lab, shape_in(lab.lm), sources.splits)
            if (
                unplanned
            ):  # only now: a model that cannot be used has just ended the run by a message of its own
                logger.warning("how long the run takes is not known: %s", unplanned)
            splits, scorers = prepare_data(config, lab, sources)
            preferences = config.grid(splits["train"].objectives)
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
        config, lab: Settings and lab of the run.
        splits, scorers: Results of :func:`prepare_data`.
        trained_at: method -> its preferences.
        measured_at: method -> preferences to measure it at; by default those of the config.
    """
    policies = {}
    for name, preferences in trained_at.items():
        with lab.trained_by(config.training(name)):
            policies[name] = replace(train(name, config, lab, splits, preferences, scorers), name=name)
        report_alike(lab, policies[name], (measured_at or {}).get(name) or served_at(config, policies[name]))
    corners = (
        replace(next(iter(policies.values())), name="corners")
        if config.untrained
        else single_models(config, lab, splits)
    )
    if lab.team.first:
        for name, policy in policies.items():
            policy.save(lab.folder / "policies" / name)
    return _written(config, lab, write_front(config, lab, policies, corners, splits, scorers, measured_at))


def single_models(config: RunConfig, lab: Lab, splits: dict[str, ScoredDataset]) -> Policy:
    """Return the soup of the single-objective models, between which the mixture chooses."""
    dpo, training = config.corners()
    with lab.trained_by(training):
        adapters = Inputs(lab, splits["train"], splits["validation"]).corners(dpo)
    return Policy.soup("corners", lab.lm, splits["train"].objectives, adapters)


def _written(config: RunConfig, lab: Lab, report: Path) -> Path:
    """Keep the settings of the front that was just written beside it, and return the path of its report."""
    if lab.team.first:
        write_text(lab.folder / "config.yaml", to_yaml(config))
    return report


def report_alike(lab: Lab, policy: Policy, preferences: Sequence[Preference]) -> None:
    """Log the different preferences at which a policy computes the same; the report has a remark at each."""
    for group in alike(policy, preferences):
        lab.say(
            f"{policy.name}: the policy computes the same at {' and at '.join(map(str, group))}, so these weights have no effect; "
            "train longer, or check that the objectives of the data differ"
        )


def run_front(config: RunConfig, adapters: Mapping[str, Adapter], by: Sequence[str], mixing: Mixing) -> Path:
    """Measure given adapters, one per objective, served as a soup, by MOD, or both; return the path of the report.

    The distance between the two at each preference shows where the soup, which costs one model, will do.

    Args:
        config: Data, scorers, sampling and preferences; its methods are not trained.
        adapters: objective -> adapter.
        by: Ways to serve them: ``soup``, ``mod``, or both.
        mixing: The rule of MOD.

    Raises:
        ConfigError: An objective without adapter, or an adapter without objective.
        ModelError: An adapter of another base model, or of another divergence.
    """
    config = read_given(config)
    sources = read_sources(config)  # before anything is written
    if set(adapters) != set(sources.objectives):
        raise ConfigError(
            f"adapters for {', '.join(adapters) or 'nothing'}; expected one for each of the objectives "
            f"{', '.join(sources.objectives)}"
        )
    with at_work(config):
        refuse_other_run(config, sources.objectives)
        config = keep_given(config)
        with told(config), memory_told(config, sources.splits):
            return _front(config, sources, adapters, by, mixing)


def _front(
    config: RunConfig, sources: Sources, adapters: Mapping[str, Adapter], by: Sequence[str], mixing: Mixing
) -> Path:
    lab, objectives = opened(config), sources.objectives
    splits, scorers = prepare_data(config, lab, sources)
    members = [lab.lm.own(adapters[name], f"the adapter for {name}") for name in objectives]
    soup_ = Policy.soup("soup", lab.lm, objectives, members)
    policies = {"soup": soup_, "mod": Policy.mod("mod", lab.lm, objectives, members, mixing)}
    chosen = {name: policies[name] for name in by}
    report = write_front(config, lab, chosen, replace(soup_, name="corners"), splits, scorers)
    return _written(config, lab, report)


def opened(config: RunConfig, shared: bool = False) -> Lab:
    """Load the model and open the run folder, with the resolved settings and the versions in it.

    ``shared``: other processes work in the folder at the same time, see :class:`paretune.training.lab.Lab`.
    """
    folder, (device, kind) = config.run_folder, computing(config.dtype, config.device)
    first = start(device, config.processes).is_main_process
    set_seed(
        config.seed, device_specific=True
    )  # of global generators, which nothing here draws from but a model might
    before = bases_before(folder) if first else []
    if first:
        base = {} if UNNAMED in before or not before else {BASE: before[0]}
        write_json(folder / VERSIONS, versions() | base | choices_before(folder))
        # Until there is another front, the settings are those of the front that is there.
        if not (folder / FILE).is_file():
            write_text(folder / "config.yaml", to_yaml(config))
    if config.sharding == "none":
        lm = load(
            config.model,
            config.dtype,
            config.device,
            quantization=config.quantization,
            attention=config.attention,
            chat_template=config.chat_template,
        )
    else:  # layer by layer to the device, as shards
        name = str(kind).removeprefix("torch.")
        lm = load(
            config.model, name, "cpu", quantization=config.quantization, chat_template=config.chat_template
        )
        if lm.quantization != "none":
            raise ConfigError(SHARDED_QUANTISED)
        shard_weights(lm.model, device)
        switch_attention(lm.model, config.attention)
    check_sizes(config, memory_of(device), shape_in(lm))
    lab = Lab(lm, folder, config.training(), tuple(config.trackers), shared, too_long=config.data.too_long)
    continue_as_before(lab, before)
    fix_date(lab)
    for key, training in config.trainings():  # refused before the first stage, not after it
        try:
            target_shapes(lm.model, training.targets)
        except ModelError as error:
            raise ConfigError(f"{key}.targets: {error}") from error
    for name in config.methods:
        training = config.training(name)
        training.share(lab.team)
    return lab


def continue_as_before(lab: Lab, before: Sequence[str]) -> None:
    """Call the base model in this run's stages what they call it, so that a run of an earlier version finds them.

    The fingerprint that the run goes on with is written beside its versions.
    """

    def chosen() -> str:
        known = lab.lm.fingerprints
        earlier = known[min(1, len(known) - 1)]
        base = next(
            (name for name in before if name in known), earlier if UNNAMED in before else lab.lm.fingerprint
        )
        write_json(lab.folder / VERSIONS, versions() | {BASE: base} | choices_before(lab.folder))
        return base

    lab.lm = replace(lab.lm, fingerprint=lab.team.once(chosen))


def shape_in(lm: LanguageModel) -> Shape | None:
    """Return the shape of a loaded model, None where a plan does not know its kind."""
    try:
        return of_config(lm.name, lm.model.config.to_dict())
    except ModelError:
        return None


def fix_date(lab: Lab) -> None:
    """Give all prompts of a run the date of its first day, where the chat template writes today's: tokens stay what they are."""
    if not lab.lm.template.is_dated:
        return

    def make(folder: Path) -> None:
        write_json(folder / "date.json", {"date": datetime.now().isoformat(timespec="seconds")})

    key = fingerprint(lab.lm.tokenizer.chat_template)
    # As its content too: a sweep in the folder of a run, whose stages have longer names, takes the same date.
    file = lab.stage("chat-template", key, make, content=key) / "date.json"
    try:
        date = datetime.fromisoformat(str(read_json(file)["date"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{file}: holds no date ({error}); delete the folder {file.parent}: the run then goes on with today's"
        ) from error
    lab.lm = replace(lab.lm, date=date)


def train(
    name: str,
    config: RunConfig,
    lab: Lab,
    splits: dict[str, ScoredDataset],
    preferences: Sequence[Preference],
    scorers: Sequence[Scorer],
) -> Policy:
    """Train one entry of ``methods`` by the lab's settings of training, and return its policy."""
    entry, endpoint = config.entry(name), config.endpoint_of(name)
    parts = splits["train"], splits["validation"]
    before = len(lab.stages)
    try:
        with stages_of(name):
            return entry.method.train(
                Inputs(lab, *parts, preferences, scorers, config.sampling, endpoint), entry.settings
            )
    finally:
        lab.used[name] = lab.stages[before:]
        release(scorers)
        if (
            lab.team.first
        ):  # and nobody waits for it: after an error of one process the others do not come here
            keep_usage(lab.folder, scorers)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def to_yaml(config: RunConfig) -> str:
    """Return the settings of a run as a config file, which :func:`paretune.runs.parse.load_config` reads."""
    import yaml

    values = config.model_dump(mode="json", exclude={"train": {"seed"}})  # it is that of the run
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
