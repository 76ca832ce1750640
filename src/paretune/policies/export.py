"""Policies at fixed preferences in the formats of others: PEFT LoRAs for any LoRA server, dense checkpoints for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from paretune.core.errors import ConfigError, ModelError
from paretune.core.files import atomic_path, write_json
from paretune.core.names import LONGEST_MADE, path_component
from paretune.core.preference import Preference
from paretune.fronts.record import FrontRecord, Point
from paretune.generation.generate import attached
from paretune.models.adapter import stack, to_peft
from paretune.policies.catalogue import MANIFEST
from paretune.policies.policy import Policy

Format = Literal["lora", "dense"]


def export(policy: Policy, preference: Preference, folder: Path, form: Format = "lora") -> Preference:
    """Write the policy at one preference and return the preference it really serves (anchors snap).

    ``lora`` writes a plain LoRA that PEFT and LoRA servers load onto the base model, ``dense`` the whole model for plain
    transformers, with its tokenizer. Both compute what the policy computes, up to the rounding of the sums.

    Raises:
        ModelError: No single update does what the policy does (the base model, a mixed policy), or ``folder`` holds
            something else.
    """
    gates = policy.gates([preference])
    if policy.no_export or gates is None:
        raise ModelError(policy.no_export)
    (used,) = policy.used([preference])
    adapter = stack(policy.adapters)
    if form == "lora":
        to_peft(adapter, folder, gates[0], policy.lm.name)
    else:
        with attached(policy.lm, adapter) as steering:
            steering.save_dense(folder, gates[0], policy.lm.tokenizer)
    return used


def export_grid(
    policy: Policy, preferences: Sequence[Preference], folder: Path, front: Path | None = None
) -> dict[str, Any]:
    """Write a LoRA for each preference and a ``manifest.json`` for a LoRA server; return the manifest.

    Args:
        policy: The policy that is exported.
        preferences: One LoRA each; those that anchors serve alike share one.
        folder: A new or empty folder.
        front: A run's ``front.json``; points measured at a preference give its scores, others have none.

    Raises:
        ConfigError: ``folder`` is not empty, or the name of an objective cannot be part of the name of a folder.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(
            f"{folder}: {'is a file' if folder.is_file() else 'is not empty'}; give a new folder"
        )
    measured = _measured(policy.name, front)
    adapters: dict[str, Any] = {}
    served = policy.used(preferences)
    names = _names(served)
    manifest = {
        "policy": policy.name,
        "base_model": policy.lm.name,
        "objectives": list(policy.objectives),
        "adapters": adapters,
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for preference, used in zip(preferences, served, strict=True):
            name = names[used]
            if name in adapters:
                adapters[name]["serves"].append(preference.as_dict())
                continue
            export(policy, used, temporary / name)
            end = policy.prompt_end(used)
            adapters[name] = {
                "preference": used.as_dict(),
                **({"prompt_ends_with": end} if end else {}),
                "serves": [preference.as_dict()],
                "scores": measured.get(used.weights),
            }
        write_json(temporary / MANIFEST, manifest)
    return manifest


def _names(served: Sequence[Preference]) -> dict[Preference, str]:
    """Return the name of each LoRA: its weights, with as few digits as tell all apart.

    Raises:
        ConfigError: The name of an objective cannot be part of the name of a folder, or all names together are too long for one.
    """
    different = list(dict.fromkeys(served))
    for digits in range(3, 18):
        names = ["-".join(f"{o}{weight:.{digits}g}" for o, weight in w.as_dict().items()) for w in different]
        if len(set(names)) == len(names):
            break
    return {
        w: path_component(name, "the LoRA", LONGEST_MADE) for w, name in zip(different, names, strict=True)
    }


def _measured(name: str, front: Path | None) -> dict[tuple[float, ...], dict[str, Any]]:
    """Return weights -> mean score on each objective with its interval as JSON values, from a run's front."""
    if front is None or not front.is_file():
        return {}
    record = FrontRecord.read(front)
    points = [point for policy in record.policies if policy.name == name for point in policy.points]

    def scores(point: Point) -> dict[str, Any]:
        intervals = [point.score(m).to_dict() for m in range(len(record.objectives))]
        return {
            objective: {"mean": interval["value"], "low": interval["low"], "high": interval["high"]}
            for objective, interval in zip(record.objectives, intervals, strict=True)
        }

    return {tuple(point.preference[o] for o in record.objectives): scores(point) for point in points}
