"""Policies at fixed preferences in the formats of others: PEFT LoRAs for any LoRA server, dense checkpoints for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from paretune.core.errors import ConfigError, ModelError
from paretune.core.files import read_json, write_json
from paretune.core.preference import Preference
from paretune.generation.generate import attached
from paretune.models.adapter import stack, to_peft
from paretune.policies.policy import Policy

Format = Literal["lora", "dense"]


def export(policy: Policy, preference: Preference, folder: Path, form: Format = "lora") -> Preference:
    """Write the policy at one preference and return the preference it really serves (anchors snap).

    ``lora`` writes a plain LoRA that PEFT and LoRA servers load onto the base model, ``dense`` the whole model for plain
    transformers, with its tokenizer. Both compute what the policy computes, up to the rounding of the sums.

    Raises:
        ModelError: the base model or a mixture of policies, or ``folder`` holds something else.
    """
    if policy.mix == "mod":
        raise ModelError(
            f"{policy.name} mixes next-token distributions, which no single update does; export the soup of the same adapters "
            "(methods: dpo-soup), or serve it with paretune"
        )
    gates = policy.gates([preference])
    (used,) = policy.used([preference])
    if gates is None:
        raise ModelError("the base model has no update to export; use it as it is")
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
        policy: what is exported.
        preferences: one LoRA each; those that anchors serve alike share one.
        folder: new or empty folder.
        front: a run's ``front.json``; points measured at a preference give its scores, others have none.

    Raises:
        ConfigError: ``folder`` is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; give a new folder")
    measured = _measured(policy.name, front)
    adapters: dict[str, Any] = {}
    names: dict[Preference, str] = {}
    for preference, used in zip(preferences, policy.used(preferences), strict=True):
        if used in names:
            adapters[names[used]]["serves"].append(preference.as_dict())
            continue
        name = names[used] = "-".join(
            f"{objective}{weight:.3g}" for objective, weight in used.as_dict().items()
        )
        export(policy, used, folder / name)
        adapters[name] = {
            "preference": used.as_dict(),
            **({"prompt_ends_with": policy.prompt_end(used)} if policy.mix == "prompt" else {}),
            "serves": [preference.as_dict()],
            "scores": measured.get(used.weights),
        }
    manifest = {
        "policy": policy.name,
        "base_model": policy.lm.name,
        "objectives": list(policy.objectives),
        "adapters": adapters,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _measured(name: str, front: Path | None) -> dict[tuple[float, ...], dict[str, Any]]:
    """Return weights -> mean score of each objective with its interval, from a run's front."""
    if front is None or not front.is_file():
        return {}
    facts = read_json(front)
    found = {}
    for policy in facts["policies"]:
        for point in policy["points"] if policy["name"] == name else ():
            figures = zip(facts["objectives"], point["mean"], point["low"], point["high"], strict=True)
            weights = tuple(point["preference"][objective] for objective in facts["objectives"])
            found[weights] = {o: {"mean": mean, "low": low, "high": high} for o, mean, low, high in figures}
    return found
