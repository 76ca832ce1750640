"""What a folder offers to be served: the policies of a run or one of them, or LoRAs that were exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ModelError, ParetuneError, suggest
from paretune.core.files import read_json
from paretune.core.preference import Preference, nearest
from paretune.fronts.surface import Surface

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    """Something on the disk that can be served under a name.

    Attributes:
        name: of the model in requests.
        folder: of the policy; of exported LoRAs the folder that holds the manifest.
        loras: names of the exported LoRAs it is made of; none for a policy.
        model: the base model's name.
        objectives: M names.
        mix: as in ``policy.json``; ``anchors`` for LoRAs.
        anchors: the preferences it answers with, if only these.
        surface: what was measured.
        prompt_ends: of exported LoRAs, what the prompt of each has to end with.
        title: the front's name for people, such as ``DPO soups``.
    """

    name: str
    folder: Path
    loras: tuple[str, ...]
    model: str
    objectives: tuple[str, ...]
    mix: str
    anchors: tuple[Preference, ...]
    surface: Surface | None
    prompt_ends: tuple[str, ...] = ()
    title: str = ""

    def used(self, preference: Preference) -> Preference:
        """Return the preference really served."""
        over = preference.over(self.objectives)
        return nearest(over, self.anchors) if self.anchors else over


def find_sources(place: Path, names: Sequence[str] = ()) -> list[Source]:
    """Return what ``place`` offers: a run, the folder of one policy, or a folder of exported LoRAs with its manifest.

    Args:
        place: the folder.
        names: those wanted, the default first; by default all, in the order of the run's front.

    Raises:
        ModelError: nothing to serve there, or not under these names.
    """
    if (place / MANIFEST).is_file():
        together, found = exported(place)
        # LoRAs that read the preference in the prompt answer to it only where it is written into it: by a router.
        if len(found) > 1 and not any(together.prompt_ends):
            found = [together, *found]
    elif (place / "policy.json").is_file():
        found = [_policy(place, place.parent.parent / "front.json")]
    else:
        front = place / "front.json"
        folders = [file.parent for file in sorted(place.glob("policies/*/policy.json"))]
        order = [str(entry.get("name")) for entry in _policies(front)]
        folders.sort(key=lambda folder: order.index(folder.name) if folder.name in order else len(order))
        found = [_policy(folder, front) for folder in folders]
    if not found:
        raise ModelError(
            f"{place}: nothing to serve in it; expected a run folder such as runs/quickstart, a policy's own, or exported LoRAs"
        )
    known = {source.name: source for source in found}
    for name in names:
        if name not in known:
            raise ModelError(f"{place}: no policy {name!r}; {suggest(name, known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else found


def exported(place: Path) -> tuple[Source, list[Source]]:
    """Return what a folder of exported LoRAs offers: all together as anchors under the policy's name, and each by itself.

    Raises:
        ModelError: not a manifest that ``paretune export --grid`` wrote.
    """
    facts = read_json(place / MANIFEST)
    try:
        objectives, adapters = tuple(facts["objectives"]), facts["adapters"]
        preferences = {
            name: Preference.of(entry["preference"], objectives) for name, entry in adapters.items()
        }

        def source(name: str, loras: Sequence[str]) -> Source:
            surface = _measured(
                name, objectives, [(preferences[lora], adapters[lora].get("scores")) for lora in loras]
            )
            anchors = tuple(preferences[lora] for lora in loras)
            ends = tuple(str(adapters[lora].get("prompt_ends_with", "")) for lora in loras)
            model = str(facts["base_model"])
            return Source(name, place, tuple(loras), model, objectives, "anchors", anchors, surface, ends)

        return source(str(facts["policy"]), list(preferences)), [source(name, [name]) for name in preferences]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{place / MANIFEST}: not a manifest of exported LoRAs ({error!r}); export them again with --grid"
        ) from error


def default_sampling(place: Path) -> dict[str, Any]:
    """Return the sampling a run's front was measured with, so that it holds for requests that do not say."""
    for file in (place / "front.json", place.parent.parent / "front.json"):
        if file.is_file():
            sampling = read_json(file).get("sampling") or {}
            names = {"max_new_tokens": "default_tokens", "temperature": "temperature", "top_p": "top_p"}
            return {names[key]: value for key, value in sampling.items() if key in names}
    return {}


def _policy(folder: Path, front: Path) -> Source:
    facts = read_json(folder / "policy.json")
    objectives = tuple(facts["objectives"])
    anchors = (
        tuple(Preference.of(weights, objectives) for weights in facts["anchors"])
        if facts["mix"] == "anchors"
        else ()
    )
    entry = next((entry for entry in _policies(front) if entry.get("name") == folder.name), None)
    surface = Surface.read(front, folder.name) if entry else None
    title = str((entry or {}).get("title", ""))
    return Source(
        folder.name, folder, (), facts["model"], objectives, facts["mix"], anchors, surface, title=title
    )


def _policies(front: Path) -> list[dict[str, Any]]:
    return list(read_json(front).get("policies", [])) if front.is_file() else []


def _measured(
    name: str, objectives: tuple[str, ...], points: Sequence[tuple[Preference, Mapping[str, Any] | None]]
) -> Surface | None:
    known = [(preference, scores) for preference, scores in points if scores]
    if not known:
        return None

    def table(pick: Callable[[Mapping[str, Any]], Any]) -> np.ndarray:
        rows = [[pick(scores[objective]) for objective in objectives] for _, scores in known]
        return np.array(
            [[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64
        )

    weights = np.stack([preference.array() for preference, _ in known])
    mean, low, high = (table(lambda score, key=key: score[key]) for key in ("mean", "low", "high"))  # type: ignore[misc]
    try:
        return Surface(name, objectives, weights, mean, low, high, anchored=True)
    except ParetuneError:
        return None  # a mean that is missing: no front


def find_policy(run: Path, name: str | None = None) -> Path:
    """Return the folder of a run's policy; ``run`` may be that folder itself.

    Raises:
        ModelError: no policy there, or several and none is named.
    """
    if (run / "policy.json").is_file():
        return run
    names = sorted(folder.parent.name for folder in run.glob("policies/*/policy.json"))
    if not names:
        raise ModelError(
            f"{run}: no policy in it; expected a run folder such as runs/quickstart, or a policy's own"
        )
    if name is None and len(names) > 1:
        raise ModelError(f"{run}: holds the policies {', '.join(names)}; choose one with --policy")
    chosen = name or names[0]
    if chosen not in names:
        raise ModelError(f"{run}: no policy {chosen!r}; it holds {', '.join(names)}")
    return run / "policies" / chosen
