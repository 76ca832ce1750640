"""A saved policy at one preference as a plain LoRA, made from the policy's files alone: the base model is not loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from paretune.core.errors import ModelError
from paretune.core.preference import Preference
from paretune.models.adapter import Adapter, stack, to_peft
from paretune.models.export_cards import ExportFacts, lora_card
from paretune.policies.gating import Anchors, Between, Conditioned, Gating, Soup
from paretune.policies.policy_file import FILE, PolicyFile

RULES: Mapping[str, Callable[[PolicyFile], Gating]] = {
    "soup": lambda facts: Soup(),
    "anchors": lambda facts: Anchors(facts.anchor_preferences),
    "between": lambda facts: Between(facts.trained_preferences),
    "conditioned": lambda facts: Conditioned(),
}
"""Kind of policy -> its rule from preferences to gates, for the kinds that are one update of plain matrices."""


def foldable(kind: str) -> bool:
    """Return whether a policy of a kind at a preference is one LoRA, and nothing in the prompt."""
    return kind in RULES


def fold(folder: Path, preference: Preference, target: Path) -> None:
    """Write the policy in ``folder`` at a preference as a LoRA that PEFT and LoRA servers load onto its base model.

    Args:
        folder: The policy's folder.
        preference: Weights on its objectives; anchors answer with the nearest.
        target: The folder of the LoRA; an earlier export there is replaced.

    Raises:
        ModelError: The folder holds no policy, or one that no single LoRA can be.
        PreferenceError: An objective that the policy does not know.
    """
    facts = PolicyFile.read(folder)
    if not foldable(facts.mix):
        raise ModelError(f"{folder}: a policy of the kind {facts.mix} is no single LoRA at a preference")
    adapters = [Adapter.load(folder / f"adapter-{number}", facts.base) for number in range(facts.adapters)]
    rule = RULES[facts.mix](facts)
    expected = {"soup": len(facts.objectives), "conditioned": 1}.get(
        facts.mix, len(facts.trained or facts.anchors)
    )
    if len(adapters) != expected:
        raise ModelError(
            f"{folder / FILE}: adapters: {len(adapters)}; a policy of the kind {facts.mix} has {expected} here"
        )
    over = preference.over(facts.objectives)
    gates = rule.gates(adapters, torch.tensor(over.array()[None], dtype=torch.float32))
    assert gates is not None  # every rule of RULES has an update
    base = facts.named_base.hub_name
    what = ExportFacts(facts.name, str(over), base, facts.revision, chat_template=facts.chat_template)
    card = lora_card(what)
    to_peft(stack(adapters), target, gates[0], base, facts.revision, card)
