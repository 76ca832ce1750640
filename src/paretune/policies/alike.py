"""Different preferences at which a policy computes the same, by its parameters and prompts: there its weights have no effect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paretune.core.preference import Preference
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy

DIGITS = 6
"""Decimals to which gates and exponents are compared: fp32 sums of weights differ in the seventh."""

Update = tuple[tuple[str, tuple[float, ...]], ...]
"""The adapters of a copy that change something, each with its gates over its columns."""


def alike(policy: Policy, preferences: Sequence[Preference]) -> list[list[Preference]]:
    """Return the groups of two or more different preferences at which a policy computes the same.

    Preferences that one anchor serves count once. Unlike :meth:`Policy.effective` this sees through columns that are 0 (an update
    that was never trained, a block of Panacea that stayed at 0) and through equal adapters, whose gates add up.
    """
    columns = [(adapter.fingerprint, _nonzero(adapter)) for adapter in policy.adapters]
    groups: dict[object, list[Preference]] = {}
    for preference in dict.fromkeys(policy.used(preferences)):
        groups.setdefault(_computed(policy, columns, preference), []).append(preference)
    return [group for group in groups.values() if len(group) > 1]


def _computed(policy: Policy, columns: Sequence[tuple[str, Tensor]], preference: Preference) -> object:
    """Return a key of what a policy computes at a preference: without an update its own, else the prompt's end and each copy."""
    gates, mixture = policy.gates([preference]), policy.mixture([preference])
    if gates is None:
        return policy.effective(preference)
    if mixture is None:
        return policy.prompt_end(preference), _update(columns, gates[0])
    (used,) = mixture.copies
    powers: dict[Update, float] = {}
    for gate, power in zip(gates[0, used], mixture.coefficients[0, used].tolist(), strict=True):
        update = _update(columns, gate)
        powers[update] = powers.get(update, 0.0) + power
    return tuple(sorted((update, round(power, DIGITS)) for update, power in powers.items()))


def _update(columns: Sequence[tuple[str, Tensor]], gate: Tensor) -> Update:
    """Return the part of ``gate [R]`` that changes something; equal adapters are one, whose gates are added."""
    sums: dict[str, Tensor] = {}
    for (name, nonzero), part in zip(columns, gate.split([len(n) for _, n in columns]), strict=True):
        sums[name] = sums.get(name, torch.zeros(())) + part.double().cpu() * nonzero
    rounded = {name: tuple(total.round(decimals=DIGITS).tolist()) for name, total in sums.items()}
    return tuple(sorted((name, values) for name, values in rounded.items() if any(values)))


def _nonzero(adapter: Adapter) -> Tensor:
    """Return the columns ``bool [R]`` of which some module's update is not 0; all of them where there are tokens of its own."""
    found = torch.full((adapter.rank,), adapter.tokens is not None)
    for U, V in adapter.factors.values():
        found |= U.ne(0).any(0) & V.ne(0).any(1)
    return found
