"""A policy maps (prompt, preference) to text; whoever holds one need not know which method made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paretune.adapter import Adapter, stack
from paretune.errors import ModelError, PreferenceError
from paretune.files import atomic_path, fingerprint, read_json, write_json
from paretune.gates import anchor_gates, nearest_anchor, soup_gates
from paretune.generate import Response, Sampling, attached, generate, response_logps
from paretune.lm import LanguageModel, load
from paretune.packing import TokenGroup
from paretune.preference import Preference
from paretune.rows import Prompt
from paretune.singular import features

Mix = Literal["base", "soup", "anchors", "conditioned"]


@dataclass(frozen=True, eq=False)
class Policy:
    """A frozen model with low-rank updates, of which the preference sets the gates, row by row.

    Attributes:
        name: of the method that made it, or of the person's choice.
        lm: the frozen base model.
        objectives: names, in the order of preferences' weights.
        mix: ``base``: no update. ``soup``: adapter j is weighted by the preference's weight on objective j.
            ``anchors``: the one adapter whose preference is nearest is used. ``conditioned``: one adapter of a block that
            is always on (unless it has none), one block an objective, weighted by the preference, and one a learned
            feature of the preference where it has such.
        adapters: M of a soup, K of anchors, one conditioned, none of the base.
        anchor_preferences: the K preferences the adapters were trained for; empty unless ``anchors``.
    """

    name: str
    lm: LanguageModel
    objectives: tuple[str, ...]
    mix: Mix
    adapters: tuple[Adapter, ...] = ()
    anchor_preferences: tuple[Preference, ...] = ()

    @classmethod
    def base(cls, lm: LanguageModel, objectives: Sequence[str]) -> Policy:
        """Return the base model as a policy: every preference gives the same."""
        return cls("base", lm, tuple(objectives), "base")

    @classmethod
    def soup(
        cls, name: str, lm: LanguageModel, objectives: Sequence[str], adapters: Sequence[Adapter]
    ) -> Policy:
        """Return the exact soup of one adapter an objective (in that order)."""
        if len(adapters) != len(objectives):
            raise ModelError(
                f"a soup needs one adapter an objective: {len(adapters)} adapters for {len(objectives)} objectives"
            )
        return cls(name, lm, tuple(objectives), "soup", tuple(adapters))

    @classmethod
    def anchors(
        cls,
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        adapters: Sequence[Adapter],
        preferences: Sequence[Preference],
    ) -> Policy:
        """Return the policy that answers each preference with the adapter trained nearest to it."""
        if len(adapters) != len(preferences) or not adapters:
            raise ModelError(
                f"anchors need one adapter a preference: {len(adapters)} adapters for {len(preferences)} preferences"
            )
        over = tuple(preference.over(objectives) for preference in preferences)
        return cls(name, lm, tuple(objectives), "anchors", tuple(adapters), over)

    @classmethod
    def conditioned(cls, name: str, lm: LanguageModel, objectives: Sequence[str], adapter: Adapter) -> Policy:
        """Return the policy of one adapter trained for all preferences (Panacea).

        Raises:
            ModelError: its blocks do not fit, or it was trained for other objectives, or for these in another order.
        """
        trained = adapter.info.get("objectives", list(objectives))
        if trained != list(objectives):
            raise ModelError(
                f"the adapter was trained for the objectives {trained}, in this order; it cannot serve {list(objectives)}"
            )
        bend = _bend(adapter)
        learned = len(bend[1]) if bend else 0
        if len(adapter.blocks) - len(objectives) - learned not in (0, 1):
            raise ModelError(
                f"an adapter of {len(adapter.blocks)} blocks for {len(objectives)} objectives; expected one block an "
                "objective, and one that they share"
            )
        return cls(name, lm, tuple(objectives), "conditioned", (adapter,))

    def effective(self, preference: Preference) -> str:
        """Identify what this policy computes at one preference: equal for two policies that share a model there."""
        gates = self.gates([preference])
        if gates is None:
            return fingerprint(self.lm.fingerprint)
        blocks = gates[0].split([adapter.rank for adapter in self.adapters])
        active = [
            (a.fingerprint, g.tolist()) for a, g in zip(self.adapters, blocks, strict=True) if bool(g.any())
        ]
        return fingerprint(self.lm.fingerprint, active)

    def weights(self, preferences: Sequence[Preference]) -> Tensor:
        """Return preferences as ``[B, M]`` fp32 in the order of this policy's objectives.

        Raises:
            PreferenceError: an objective this policy does not know; a preference off the simplex, for anchors.
        """
        beyond = [preference for preference in preferences if preference.extrapolated]
        if beyond and self.mix == "anchors":
            raise PreferenceError(
                f"{self.name} answers with the nearest of its anchors, so it cannot extrapolate to {beyond[0]}; a soup or "
                "Panacea can"
            )
        return torch.tensor(
            np.stack([preference.over(self.objectives).array() for preference in preferences]),
            dtype=torch.float32,
        )

    def used(self, preferences: Sequence[Preference]) -> list[Preference]:
        """Return the preferences that are really served: snapped to the nearest anchor where the policy has anchors."""
        if self.mix != "anchors":
            return [preference.over(self.objectives) for preference in preferences]
        choice, _ = nearest_anchor(self.weights(preferences), self.weights(self.anchor_preferences))
        return [self.anchor_preferences[index] for index in choice.tolist()]

    def gates(self, preferences: Sequence[Preference]) -> Tensor | None:
        """Return the gates ``[B, R]``, one row a preference; None for the base model."""
        if self.mix == "base":
            self.weights(preferences)
            return None
        if self.mix == "conditioned":
            (adapter,), weights = self.adapters, self.weights(preferences)
            bend = _bend(adapter)
            bent = features(weights, *bend) if bend else torch.ones(len(weights), 0)
            always = torch.ones(len(weights), len(adapter.blocks) - len(self.objectives) - bent.shape[1])
            return soup_gates(torch.cat([always, weights, bent], dim=1), adapter.ranks, adapter.scales)
        ranks, scales = [a.rank for a in self.adapters], [a.scale for a in self.adapters]
        if self.mix == "soup":
            return soup_gates(self.weights(preferences), ranks, scales)
        choice, _ = nearest_anchor(self.weights(preferences), self.weights(self.anchor_preferences))
        return anchor_gates(choice, ranks, scales)

    def generate(
        self,
        prompts: Sequence[Prompt],
        preferences: Sequence[Preference],
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Response]:
        """Sample one response a row; every row of the one batch follows its own preference.

        Args:
            prompts: B conversations.
            preferences: B preferences, one a row.
            sampling: length, temperature, top-p; by default 128 tokens at temperature 1.
            seeds: B seeds; by default 0..B-1. A row's text depends on its own prompt, preference and seed.

        Raises:
            PreferenceError: another number of preferences than prompts, or an unknown objective.
        """
        if len(preferences) != len(prompts):
            raise PreferenceError(
                f"{len(prompts)} prompts and {len(preferences)} preferences; expected one preference a prompt"
            )
        ids = [self.lm.encode_prompt(prompt) for prompt in prompts]
        sampling, seeds = sampling or Sampling(), list(range(len(prompts))) if seeds is None else seeds
        gates = self.gates(preferences)
        if gates is None:
            return generate(self.lm, ids, sampling, seeds, description=f"sampling {self.name}")
        with attached(self.lm, stack(self.adapters)) as steering:
            return generate(self.lm, ids, sampling, seeds, steering, gates, f"sampling {self.name}")

    def logps(self, groups: Sequence[TokenGroup], preferences: Sequence[Preference]) -> list[Tensor]:
        """Return the log-probabilities of each group's responses under its own preference, in nats."""
        gates = self.gates(preferences)
        if gates is None:
            return response_logps(self.lm, groups)
        with attached(self.lm, stack(self.adapters)) as steering:
            return response_logps(self.lm, groups, steering, gates)

    def save(self, folder: str | Path) -> None:
        """Write ``policy.json`` and one folder an adapter, atomically."""
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for number, adapter in enumerate(self.adapters):
                adapter.save(temporary / f"adapter-{number}")
            write_json(
                temporary / "policy.json",
                {
                    "name": self.name,
                    "model": self.lm.name,
                    "base": self.lm.fingerprint,
                    "objectives": list(self.objectives),
                    "mix": self.mix,
                    "anchors": [preference.as_dict() for preference in self.anchor_preferences],
                    "adapters": len(self.adapters),
                },
            )

    @classmethod
    def load(cls, folder: str | Path, lm: LanguageModel) -> Policy:
        """Read a policy written by :meth:`save` onto its base model.

        Raises:
            ModelError: not a policy, or one of another base model.
        """
        folder = Path(folder)
        if not (folder / "policy.json").is_file():
            raise ModelError(
                f"{folder}: no policy.json; expected the folder of a policy, such as RUN/policies/modpo"
            )
        facts = read_json(folder / "policy.json")
        if facts["base"] != lm.fingerprint:
            raise ModelError(
                f"{folder}: made for base model {facts['model']} ({facts['base']}), but {lm.name} ({lm.fingerprint}) is loaded"
            )
        adapters = tuple(
            Adapter.load(folder / f"adapter-{number}", lm.fingerprint) for number in range(facts["adapters"])
        )
        objectives = tuple(facts["objectives"])
        if facts["mix"] == "conditioned":
            return cls.conditioned(facts["name"], lm, objectives, adapters[0])
        anchors = tuple(Preference.of(weights, objectives) for weights in facts["anchors"])
        return cls(facts["name"], lm, objectives, facts["mix"], adapters, anchors)


def _bend(adapter: Adapter) -> tuple[Tensor, Tensor] | None:
    """Return A and a of an adapter whose gates are bent by learned features, see :mod:`paretune.singular`."""
    kept = adapter.info.get("features")
    return (torch.tensor(kept["weight"]), torch.tensor(kept["bias"])) if kept else None


def load_policy(folder: str | Path, dtype: str = "auto") -> Policy:
    """Load a policy together with its base model, which its ``policy.json`` names."""
    file = Path(folder) / "policy.json"
    if not file.is_file():
        raise ModelError(
            f"{folder}: no policy.json; expected the folder of a policy, such as RUN/policies/modpo"
        )
    return Policy.load(folder, load(read_json(file)["model"], dtype))
