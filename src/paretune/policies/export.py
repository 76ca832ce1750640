"""Policies at fixed preferences in the formats of others: PEFT LoRAs for any LoRA server, dense checkpoints for transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.core.errors import ConfigError, ModelError
from paretune.core.files import atomic_path, write_json
from paretune.core.preference import Preference
from paretune.fronts.record import FrontRecord, Point
from paretune.generation.generate import attached
from paretune.models.adapter import stack, to_peft
from paretune.models.export_cards import ExportFacts, dense_card, lora_card
from paretune.policies.catalogue import MANIFEST
from paretune.policies.policy import Policy
from paretune.policies.rounding import Probe, Rounding
from paretune.policies.shared import RUN

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Format = Literal["lora", "dense"]
_UNSAFE = re.compile(r"[^\w.]")


@dataclass(frozen=True)
class Made:
    """What was exported.

    Attributes:
        preference: The preference that it really serves (anchors snap).
        rounding: How far a dense model is from the policy; None for a LoRA.
    """

    preference: Preference
    rounding: Rounding | None = None


def export(
    policy: Policy, preference: Preference, folder: Path, form: Format = "lora", dequantise: bool = False
) -> Made:
    """Write the policy at one preference.

    ``lora`` writes a plain LoRA that PEFT and LoRA servers load onto the base model, ``dense`` the whole model for plain
    transformers, with its tokenizer. Both compute what the policy computes, up to the rounding of the sums, which is measured for a
    dense model: its weights are rounded once more, to the number format of the model. A dense model of a quantised base model is
    written only with ``dequantise``. Both have a card that says what they are.

    Raises:
        ModelError: No single update does what the policy does (the base model, a mixed policy), ``folder`` holds something else, or
            the base model of a dense model is quantised.
    """
    gates = policy.gates([preference])
    if policy.no_export or gates is None:
        raise ModelError(policy.no_export)
    (used,) = policy.used([preference])
    adapter, lm = stack(policy.adapters), policy.lm
    base, commit = lm.portable_name, lm.origin.hub.commit
    facts = ExportFacts(policy.name, str(used), base, commit, policy.prompt_end(used), lm.chat_template)
    if form == "lora":
        to_peft(adapter, folder, gates[0], base, commit, lora_card(facts))
        return Made(used)
    found: list[Rounding] = []
    with attached(lm, adapter) as steering:
        probe = Probe(policy, used, steering, gates[0])

        def card(model: PreTrainedModel) -> str:
            found.append(probe.compare(model))
            return dense_card(facts, str(found[0]))

        steering.save_dense(folder, gates[0], lm.tokenizer, dequantise, card)
    return Made(used, found[0])


def export_grid(
    policy: Policy, preferences: Sequence[Preference], folder: Path, front: Path | None = None
) -> dict[str, Any]:
    """Write a LoRA for each preference and a ``manifest.json`` for a LoRA server; return the manifest.

    The folder appears whole or not at all.

    Args:
        policy: The policy that is exported.
        preferences: One LoRA each; those that anchors serve alike share one.
        folder: A new or empty folder.
        front: A run's ``front.json``; points measured at a preference give its scores, others have none. Outside a run there may
            be none.

    Raises:
        ConfigError: ``folder`` is a file or not empty.
        ModelError: The run has lost its front.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(
            f"{folder}: {'is a file' if folder.is_file() else 'is not empty'}; give a new folder"
        )
    measured = _measured(policy.name, front)
    adapters: dict[str, Any] = {}
    served = policy.used(preferences)
    names = _names(list(dict.fromkeys(served)))
    manifest = {
        "policy": policy.name,
        "base_model": policy.lm.portable_name,
        "model": policy.lm.name,
        "revision": policy.lm.origin.hub.commit,
        "dtype": str(policy.lm.model.dtype).removeprefix("torch."),
        "quantization": policy.lm.quantization,
        **({"chat_template": dict(policy.lm.chat_template)} if policy.lm.chat_template else {}),
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


def _names(preferences: Sequence[Preference]) -> dict[Preference, str]:
    """Return a name for each of some different preferences: its weights, with as many digits as tell all of them apart.

    Names are folders and parts of URLs: what is neither a letter nor a digit in the name of an objective becomes ``_``.
    """
    for digits in range(3, 18):
        names = {
            preference: "-".join(
                f"{_UNSAFE.sub('_', objective)}{weight:.{digits}g}"
                for objective, weight in preference.as_dict().items()
            )
            for preference in preferences
        }
        if len(set(names.values())) == len(preferences):
            return names
    return {preference: f"{number}-{names[preference]}" for number, preference in enumerate(preferences)}


def recorded(front: Path | None) -> FrontRecord | None:
    """Return the record of a run's front; None for a policy outside a run, which was not measured.

    Raises:
        ModelError: The run has lost it.
    """
    if front is None or not (front.exists() or (front.parent / RUN).is_file()):
        return None
    if not front.is_file():
        raise ModelError(
            f"{front}: there is no such file, and the scores of the LoRAs stand in it; give the command of the run again, which "
            "makes it anew, or export a copy of the policy's folder, which has no scores"
        )
    return FrontRecord.read(front)


def _measured(name: str, front: Path | None) -> dict[tuple[float, ...], dict[str, Any]]:
    """Return weights -> mean score on each objective with its interval as JSON values, from a run's front."""
    record = recorded(front)
    if record is None:
        return {}
    points = [point for policy in record.policies if policy.name == name for point in policy.points]

    def scores(point: Point) -> dict[str, Any]:
        intervals = [point.score(m).to_dict() for m in range(len(record.objectives))]
        return {
            objective: {"mean": interval["value"], "low": interval["low"], "high": interval["high"]}
            for objective, interval in zip(record.objectives, intervals, strict=True)
        }

    return {tuple(point.preference[o] for o in record.objectives): scores(point) for point in points}
