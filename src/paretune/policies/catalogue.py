"""What a folder offers to be served: the policies of a run or one of them, or LoRAs that were exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import NotRequired, TypedDict

from paretune.core.errors import ConfigError, ModelError, ParetuneError, PreferenceError, suggest
from paretune.core.files import read_json
from paretune.core.names import LONGEST_MADE, path_component
from paretune.core.preference import Preference, nearest
from paretune.fronts.record import FILE, FrontRecord
from paretune.fronts.surface import Surface
from paretune.models.embedded import hub_name
from paretune.models.hub import place_of
from paretune.policies import policy_file
from paretune.policies.policy_file import NamedBase
from paretune.policies.shared import front_of, policy_folder

MANIFEST = "manifest.json"
"""The file that ``paretune export --grid`` writes beside the LoRAs."""
BLOCKS = "blocks.json"
"""The list of a policy's blocks that ``paretune export --format gguf`` writes beside them."""


class ManifestScore(TypedDict):
    """A mean score and its interval, None where it was not measured."""

    mean: float | None
    low: float | None
    high: float | None


class ManifestEntry(TypedDict):
    """An exported LoRA: its preference, its scores by objective, and what the prompt has to end with."""

    preference: dict[str, float]
    scores: NotRequired[dict[str, ManifestScore] | None]
    prompt_ends_with: NotRequired[str]


class Manifest(TypedDict):
    """The content of the manifest, as far as it is read."""

    policy: str
    base_model: str
    model: NotRequired[str]
    revision: NotRequired[str]
    dtype: NotRequired[Literal["auto", "float32", "bfloat16"]]
    quantization: NotRequired[Literal["none", "nf4", "fp4", "int8"]]
    chat_template: NotRequired[dict[str, Any]]
    objectives: list[str]
    adapters: dict[str, ManifestEntry]


@dataclass(frozen=True)
class Source:
    """Something on the disk that can be served under a name.

    Attributes:
        name: The model's name in requests.
        folder: The policy's folder, or the folder that holds the manifest of exported LoRAs.
        loras: The names of the exported LoRAs it is made of; none for a policy.
        model: The base model's name, as :func:`paretune.models.language_model.load` takes it.
        base_name: The base model's name for other tools: the hub's where it has one.
        objectives: M names.
        kind: The policy's kind as in ``policy.json``; ``anchors`` for LoRAs.
        exportable: Whether one LoRA does what it does at one preference.
        anchors: The preferences it answers with, if only these.
        trained: The preferences between which it interpolates, if it is a soup of anchors.
        surface: What was measured.
        prompt_ends: The text that the prompt of each exported LoRA has to end with.
        title: The name for people, such as ``DPO soups``.
        dtype: The number format in which it was trained and measured.
        revision: The base model's commit on the hub; empty where it is not known.
        quantization: How the base model's matrices were held in training, see
            :func:`paretune.policies.policy_file.loaded_as`.
        chat_template: The arguments of the base model's chat template.
    """

    name: str
    folder: Path
    loras: tuple[str, ...]
    model: str
    base_name: str
    objectives: tuple[str, ...]
    kind: str
    exportable: bool
    anchors: tuple[Preference, ...]
    surface: Surface | None
    prompt_ends: tuple[str, ...] = ()
    title: str = ""
    dtype: str = "auto"
    revision: str = ""
    quantization: str = "none"
    trained: tuple[Preference, ...] = ()
    chat_template: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def named_base(self) -> NamedBase:
        """The base model as the policy's file or the manifest names it."""
        hub = self.base_name if self.base_name != self.model else ""
        return NamedBase(self.model, hub, self.revision, self.chat_template)

    def used(self, preference: Preference) -> Preference:
        """Return the preference that is really served."""
        over = preference.over(self.objectives)
        return nearest(over, self.anchors) if self.anchors else over


def find_sources(folder: Path, names: Sequence[str] = ()) -> list[Source]:
    """Return what ``folder`` offers: it is a run, one policy, or exported LoRAs with their manifest.

    Args:
        folder: The folder, or the name of a policy on the hub.
        names: The policies wanted, the default first; by default all, in the order of the run's front.

    Raises:
        ModelError: There is nothing to serve, or not under these names.
    """
    folder = policy_folder(folder)
    if (folder / MANIFEST).is_file():
        together, sources = exported(folder)
        # LoRAs that read the preference in the prompt answer to it only where it is written into it: by a router.
        if len(sources) > 1 and not any(together.prompt_ends):
            sources = [together, *sources]
    elif (folder / policy_file.FILE).is_file():
        front = front_of(folder)
        sources = [_policy(folder, FrontRecord.read(front) if front else None)]
    else:
        record = _record(folder)
        order = [policy.name for policy in record.policies] if record else []
        policies = [file.parent for file in sorted(folder.glob(f"policies/*/{policy_file.FILE}"))]
        policies.sort(key=lambda policy: order.index(policy.name) if policy.name in order else len(order))
        sources = [_policy(policy, record) for policy in policies]
    if not sources:
        raise ModelError(
            f"{folder}: nothing to serve in it; expected a run folder such as runs/quickstart, a policy's folder, or exported "
            "LoRAs"
        )
    known = {source.name: source for source in sources}
    for name in names:
        if name not in known:
            raise ModelError(f"{folder}: no policy {name!r}; {suggest(name, known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else sources


def exported(folder: Path) -> tuple[Source, list[Source]]:
    """Return what a folder of exported LoRAs offers: all together as anchors under the policy's name, and each alone.

    Raises:
        ModelError: The folder has no manifest that ``paretune export --grid`` wrote.
    """
    file = folder / MANIFEST
    cure = "it is no manifest of exported LoRAs; export them again with --grid"
    try:
        facts = read_json(file, Manifest, cure)
    except ParetuneError as error:
        raise ModelError(str(error)) from error
    objectives, adapters = tuple(facts["objectives"]), facts["adapters"]
    try:
        for name in adapters:
            path_component(name, "the LoRA", LONGEST_MADE)
        preferences = {
            name: Preference.of(entry["preference"], objectives) for name, entry in adapters.items()
        }
        for entry in adapters.values():
            if (scores := entry.get("scores")) and set(scores) != set(objectives):
                raise ConfigError(f"scores of {', '.join(scores)}, expected {', '.join(objectives)}")
    except (ConfigError, PreferenceError) as error:
        raise ModelError(f"{file}: {error}; {cure}") from error

    def source(name: str, loras: Sequence[str]) -> Source:
        return Source(
            name=name,
            folder=folder,
            loras=tuple(loras),
            model=facts.get("model", facts["base_model"]),
            base_name=hub_name(facts["base_model"]),
            revision=facts.get("revision", ""),
            objectives=objectives,
            kind="anchors",
            exportable=True,
            anchors=tuple(preferences[lora] for lora in loras),
            surface=_surface(
                name, objectives, [(preferences[lora], adapters[lora].get("scores")) for lora in loras]
            ),
            prompt_ends=tuple(adapters[lora].get("prompt_ends_with", "") for lora in loras),
            dtype=facts.get("dtype", "auto"),
            quantization=facts.get("quantization", "none"),
            chat_template=facts.get("chat_template", {}),
        )

    return source(facts["policy"], list(preferences)), [source(name, [name]) for name in preferences]


def exported_blocks(folder: Path) -> Source:
    """Return what a folder with the blocks of a policy offers: the policy, with the front that was copied beside it.

    Raises:
        ModelError: The folder was not written by ``paretune export --format gguf``.
    """
    return _policy(folder, _record(folder), exported=True)


def default_sampling(folder: Path) -> dict[str, Any]:
    """Return the sampling a run's front was measured with, the default of requests that state none."""
    folder = policy_folder(folder)
    for run in (folder, folder.parent.parent):
        if record := _record(run):
            names = {"max_new_tokens": "default_tokens", "temperature": "temperature", "top_p": "top_p"}
            return {names[key]: value for key, value in record.sampling.items() if key in names}
    return {}


def _record(run: Path) -> FrontRecord | None:
    """Return the record of a run; None where nothing was measured."""
    return FrontRecord.read(run / FILE) if (run / FILE).is_file() else None


def _policy(folder: Path, record: FrontRecord | None, exported: bool = False) -> Source:
    facts = policy_file.PolicyFile.read(folder)
    # A folder in the hub's cache has the name of a commit, and one that was pulled or exported any name.
    named = exported or place_of(folder).name or (folder / FILE).is_file()
    name = facts.name if named else folder.name
    measured = record is not None and any(policy.name == name for policy in record.policies)
    return Source(
        name=name,
        folder=folder,
        loras=(),
        model=facts.model,
        base_name=facts.named_base.hub_name,
        revision=facts.revision,
        objectives=facts.objectives,
        kind=facts.mix,
        exportable=facts.exportable,
        anchors=facts.anchor_preferences,
        surface=Surface.of(record, name) if record and measured else None,
        title=record.policy(name).title if record and measured else "",
        dtype=facts.dtype,
        quantization=facts.quantization,
        trained=facts.trained_preferences,
        chat_template=facts.chat_template,
    )


def _surface(
    name: str,
    objectives: tuple[str, ...],
    points: Sequence[tuple[Preference, Mapping[str, ManifestScore] | None]],
) -> Surface | None:
    known = [(preference, scores) for preference, scores in points if scores]
    if not known:
        return None

    def table(pick: Callable[[ManifestScore], float | None]) -> np.ndarray:
        rows = [[pick(scores[objective]) for objective in objectives] for _, scores in known]
        return np.array(
            [[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64
        )

    weights = np.stack([preference.array() for preference, _ in known])
    mean, low, high = (table(lambda score, key=key: score[key]) for key in ("mean", "low", "high"))  # type: ignore[misc]
    try:
        return Surface(name, objectives, weights, mean, low, high, anchored=True)
    except ParetuneError:
        return None  # a mean is missing: there is no front


def find_policy(run: Path, name: str | None = None) -> Path:
    """Return the folder of a run's policy; ``run`` may be that folder itself, or a policy's repository on the hub.

    Raises:
        ModelError: There is no policy, or there are several and none is named.
    """
    run = policy_folder(run)
    if (run / policy_file.FILE).is_file():
        return run
    names = sorted(folder.parent.name for folder in run.glob(f"policies/*/{policy_file.FILE}"))
    if not names:
        raise ModelError(
            f"{run}: no policy in it; expected a run folder such as runs/quickstart, or a policy's folder"
        )
    if name is None and len(names) > 1:
        raise ModelError(f"{run}: holds the policies {', '.join(names)}; choose one with --policy")
    chosen = name or names[0]
    if chosen not in names:
        raise ModelError(f"{run}: no policy {chosen!r}; it holds {', '.join(names)}")
    return run / "policies" / chosen
