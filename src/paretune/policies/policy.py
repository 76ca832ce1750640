"""A policy maps (prompt, preference) to text; whoever holds one need not know which method made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paretune.core.errors import ModelError, PreferenceError
from paretune.core.files import atomic_path, fingerprint, read_json, write_json
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message, Prompt
from paretune.generation.draw import uniforms
from paretune.generation.generate import Response, attached, generate, response_logps
from paretune.generation.mixing import Mixing, Mixture, exponents, mix, resample
from paretune.models.adapter import Adapter, stack
from paretune.models.gates import anchor_gates, nearest_anchor, soup_gates
from paretune.models.language_model import LanguageModel, load
from paretune.models.packing import TokenGroup
from paretune.models.singular_gates import features
from paretune.policies.prompts import Prompting

CANDIDATE_STRIDE = 1_000_003
"""Between the seeds of a row's candidates: rows have neighbouring seeds."""

Mix = Literal["base", "soup", "anchors", "conditioned", "mod", "prompt"]

EXTRAPOLATES_NOT = {"anchors": "the nearest of its anchors", "prompt": "the scores it saw in training"}
"""Mixes that have no line to go on along, and what they answer with."""


@dataclass(frozen=True, eq=False)
class Policy:
    """A frozen model with low-rank updates, of which the preference sets the gates, row by row.

    Attributes:
        name: of the method that made it, or of the person's choice.
        lm: the frozen base model; of a prompted policy it reads the tags that are tokens.
        objectives: names, in the order of preferences' weights.
        mix: ``base``: no update. ``soup``: adapter j is weighted by the preference's weight on objective j.
            ``anchors``: the one adapter whose preference is nearest is used. ``conditioned``: one adapter of a block that
            is always on (unless it has none), one block an objective, weighted by the preference, and one a learned
            feature of the preference where it has such. ``mod``: the next-token distributions of one adapter an objective
            are mixed, see :mod:`paretune.generation.mixing`. ``prompt``: one adapter that reads the preference in the prompt, see
            :mod:`paretune.policies.prompts`.
        adapters: M of a soup or of MOD, K of anchors, one conditioned or prompted, none of the base.
        anchor_preferences: the K preferences the adapters were trained for; empty unless ``anchors``.
        mixing: the rule of MOD.
    """

    name: str
    lm: LanguageModel
    objectives: tuple[str, ...]
    mix: Mix
    adapters: tuple[Adapter, ...] = ()
    anchor_preferences: tuple[Preference, ...] = ()
    mixing: Mixing = field(default_factory=Mixing)

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

    @classmethod
    def mod(
        cls,
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        adapters: Sequence[Adapter],
        mixing: Mixing | None = None,
    ) -> Policy:
        """Return the policy that mixes the next-token distributions of one adapter an objective (multi-objective decoding).

        Adapters trained with different strengths beta_i of the penalty are mixed for the largest of them: objective i has the
        exponent w_i beta_i / beta, and the reference model what is missing to 1.

        Raises:
            ModelError: not one adapter an objective, or one trained under another divergence.
        """
        mixing = mixing or Mixing()
        if len(adapters) != len(objectives):
            raise ModelError(
                f"MOD needs one adapter an objective: {len(adapters)} adapters for {len(objectives)} objectives"
            )
        for adapter, objective in zip(adapters, objectives, strict=True):
            trained = adapter.info.get("divergence", "reverse-kl" if "method" in adapter.info else None)
            if trained not in (None, mixing.divergence):
                raise ModelError(
                    f"the adapter for {objective!r} was trained under the divergence {trained}; it cannot be mixed under "
                    f"{mixing.divergence}"
                )
        return cls(name, lm, tuple(objectives), "mod", tuple(adapters), mixing=mixing)

    @classmethod
    def prompted(cls, name: str, lm: LanguageModel, objectives: Sequence[str], adapter: Adapter) -> Policy:
        """Return the policy of one adapter that reads the wanted scores in the prompt (Rewards-in-Context).

        Raises:
            ModelError: the adapter does not say how, was trained for other objectives, or lacks its tags' embeddings.
        """
        if "prompting" not in adapter.info:
            raise ModelError(
                "the adapter does not say how preferences are written into prompts; it was not trained for it"
            )
        prompting = Prompting.from_dict(adapter.info["prompting"])
        trained = list(prompting.objectives)
        if trained != list(objectives):
            raise ModelError(
                f"the adapter was trained for the objectives {trained}, in this order; it cannot serve {list(objectives)}"
            )
        lm = replace(lm, tags=prompting.tags)
        lm.check_tags(adapter)
        return cls(name, lm, tuple(objectives), "prompt", (adapter,))

    @property
    def extrapolates(self) -> bool:
        """Whether preferences off the simplex mean something to this policy."""
        return self.mix not in EXTRAPOLATES_NOT

    @property
    def passes(self) -> int:
        """Forward passes of a row for each token it generates, away from the corners of the simplex."""
        return len(self.adapters) * self.mixing.candidates if self.mix == "mod" else 1

    def effective(self, preference: Preference) -> str:
        """Identify what this policy computes at one preference: equal for two policies that share a model there."""
        gates = self.gates([preference])
        if gates is None:
            return fingerprint(self.lm.fingerprint)
        ranks = [adapter.rank for adapter in self.adapters]

        def active(gate: Tensor) -> list[Any]:
            parts = zip(self.adapters, gate.split(ranks), strict=True)
            return [(adapter.fingerprint, part.tolist()) for adapter, part in parts if bool(part.any())]

        if self.mix == "prompt":
            return fingerprint(self.lm.fingerprint, active(gates[0]), self._prompting.targets(preference))
        if self.mix != "mod":
            return fingerprint(self.lm.fingerprint, active(gates[0]))
        mixture = self.mixture([preference])
        (used,) = mixture.copies
        exponents = mixture.coefficients[0, used].tolist()
        if exponents == [1.0]:
            return fingerprint(self.lm.fingerprint, *([active(gates[0, used][0])] if not used[0] else []))
        copies = [active(gate) for gate in gates[0, used]]
        return fingerprint(self.lm.fingerprint, "mixture", vars(self.mixing), exponents, copies)

    def weights(self, preferences: Sequence[Preference]) -> Tensor:
        """Return preferences as ``[B, M]`` fp32 in the order of this policy's objectives.

        Raises:
            PreferenceError: an objective this policy does not know; a preference off the simplex, for anchors.
        """
        beyond = [preference for preference in preferences if preference.extrapolated]
        if beyond and not self.extrapolates:
            raise PreferenceError(
                f"{self.name} answers with {EXTRAPOLATES_NOT[self.mix]}, so it cannot extrapolate to {beyond[0]}; a soup or "
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
        """Return the gates ``[B, R]``, one row a preference; None for the base model.

        For MOD ``[B, 1 + M, R]``: of the reference model and of each policy.
        """
        if self.mix == "base":
            self.weights(preferences)
            return None
        if self.mix == "conditioned":
            (adapter,), weights = self.adapters, self.weights(preferences)
            bend = _bend(adapter)
            bent = features(weights, *bend) if bend else torch.ones(len(weights), 0)
            always = torch.ones(len(weights), len(adapter.blocks) - len(self.objectives) - bent.shape[1])
            return soup_gates(torch.cat([always, weights, bent], dim=1), adapter.ranks, adapter.scales)
        if self.mix == "prompt":
            self.weights(preferences)
            return self.adapters[0].gates().expand(len(preferences), -1)
        ranks, scales = [a.rank for a in self.adapters], [a.scale for a in self.adapters]
        if self.mix == "mod":
            self.weights(preferences)
            corners = torch.cat([torch.zeros(1, len(ranks)), torch.eye(len(ranks))])
            return soup_gates(corners, ranks, scales).expand(len(preferences), -1, -1)
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
        ids = [self.lm.encode_prompt(prompt) for prompt in self.asked(prompts, preferences)]
        sampling, seeds = sampling or Sampling(), list(range(len(prompts))) if seeds is None else seeds
        title = f"sampling {self.name}"
        gates = self.gates(preferences)
        if gates is None:
            return generate(self.lm, ids, sampling, seeds, description=title)
        with attached(self.lm, stack(self.adapters)) as steering:
            if self.mix != "mod":
                return generate(self.lm, ids, sampling, seeds, steering, gates, title)
            mixture, n = self.mixture(preferences), self.mixing.candidates
            rows = [row for row in range(len(ids)) for _ in range(n)]
            drawn = generate(
                self.lm,
                [ids[row] for row in rows],
                sampling,
                # The first candidate is what would be drawn alone.
                [seeds[row] + CANDIDATE_STRIDE * place for row in range(len(ids)) for place in range(n)],
                steering,
                gates[rows],
                title,
                mixture[rows],
            )
        if n == 1:
            return drawn
        parts = [drawn[start : start + n] for start in range(0, len(drawn), n)]
        return [
            part[kept_candidate([response.normalisers for response in part], seed)]
            for part, seed in zip(parts, seeds, strict=True)
        ]

    def asked(self, prompts: Sequence[Prompt], preferences: Sequence[Preference]) -> list[Prompt]:
        """Return the prompts as the model reads them: with the wanted scores where the preference enters there."""
        if self.mix != "prompt":
            return list(prompts)
        prompting = self._prompting
        return [
            prompting.prompt(prompt, prompting.targets(preference.over(self.objectives)))
            for prompt, preference in zip(prompts, preferences, strict=True)
        ]

    def prompt_end(self, preference: Preference) -> str:
        """Return what this policy appends to the last user turn of a prompt; nothing unless the preference enters there."""
        (asked,) = self.asked([(Message("user", ""),)], [preference])
        return asked[-1].content

    @property
    def _prompting(self) -> Prompting:
        return Prompting.from_dict(self.adapters[0].info["prompting"])

    def mixture(self, preferences: Sequence[Preference]) -> Mixture:
        """Return how the rows of MOD are mixed at B preferences."""
        betas = [float(adapter.info["beta"]) for adapter in self.adapters if "beta" in adapter.info]
        known = len(betas) == len(self.adapters) and len(set(betas)) > 1
        ratios = torch.tensor(betas, dtype=torch.float64) / max(betas) if known else None
        return Mixture(exponents(self.weights(preferences), ratios), self.mixing)

    def logps(self, groups: Sequence[TokenGroup], preferences: Sequence[Preference]) -> list[Tensor]:
        """Return the log-probabilities of each group's responses under its own preference, in nats.

        Prompts are as the model reads them (:meth:`asked`).
        """
        gates = self.gates(preferences)
        if gates is None:
            return response_logps(self.lm, groups)
        if self.mix == "mod":
            return [
                torch.stack([chosen_logps(self.distribution(p, r, w), r).sum() for r in responses])
                for (p, responses), w in zip(groups, preferences, strict=True)
            ]
        with attached(self.lm, stack(self.adapters)) as steering:
            return response_logps(self.lm, groups, steering, gates)

    @torch.no_grad()
    def distribution(self, prompt: Sequence[int], response: Sequence[int], preference: Preference) -> Tensor:
        """Return the next-token log-probabilities ``[T, V]`` (fp32) before each of the T tokens of a response.

        The prompt is as the model reads it (:meth:`asked`).
        """
        gates, T = self.gates([preference]), len(response)
        ids = torch.tensor([[*prompt, *response]], device=self.lm.device)

        def logits(copies: int) -> Tensor:
            found = self.lm.model(input_ids=ids.expand(copies, -1), logits_to_keep=T + 1).logits
            return found[:, :-1].float()

        if gates is None:
            return logits(1)[0].log_softmax(-1)
        with attached(self.lm, stack(self.adapters)) as steering:
            if self.mix != "mod":
                with steering.at(gates):
                    return logits(1)[0].log_softmax(-1)
            mixture = self.mixture([preference])
            owners, kinds = mixture.copies.nonzero(as_tuple=True)
            with steering.at(gates[owners, kinds]):
                each = logits(len(kinds))  # [copies, T, V]; every token is a row of its own
        places = torch.arange(T, device=each.device).repeat_interleave(len(kinds))
        mixed, _ = mix(
            each.transpose(0, 1).flatten(0, 1),
            places,
            kinds.to(each.device).repeat(T),
            mixture[[0] * T],
        )
        return mixed.log_softmax(-1)

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
                    "mixing": vars(self.mixing),
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
        if facts["mix"] == "prompt":
            return cls.prompted(facts["name"], lm, objectives, adapters[0])
        if facts["mix"] == "mod":
            return cls.mod(facts["name"], lm, objectives, adapters, Mixing(**facts["mixing"]))
        anchors = tuple(Preference.of(weights, objectives) for weights in facts["anchors"])
        return cls(facts["name"], lm, objectives, facts["mix"], adapters, anchors)


def kept_candidate(normalisers: Sequence[Sequence[float]], seed: int) -> int:
    """Return which of a row's candidates is its response, from log Z of the tokens of each; see :func:`resample`."""
    weights = torch.tensor([[sum(tokens) for tokens in normalisers]])
    return int(resample(weights, uniforms(seed, 1))[0])


def chosen_logps(distribution: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return the log-probabilities ``[T]`` of ``tokens`` under next-token log-probabilities ``[T, V]``."""
    index = torch.tensor(list(tokens), device=distribution.device)
    return distribution.gather(-1, index[:, None])[:, 0]


def _bend(adapter: Adapter) -> tuple[Tensor, Tensor] | None:
    """Return A and a of an adapter whose gates are bent by learned features, see :mod:`paretune.models.singular_gates`."""
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
