"""Policies that mix the next-token distributions of several copies of a row while decoding: MOD, and SIPO on the way.

The mathematics is in :mod:`paretune.generation.mixing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from paretune.core.errors import ModelError
from paretune.core.files import fingerprint
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.draw import uniforms
from paretune.generation.generate import Response, attached, generate
from paretune.generation.mixing import Mixing, Mixture, exponents, mix, resample
from paretune.models.adapter import Adapter, stack
from paretune.models.gates import soup_gates
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.policies import one_pass
from paretune.policies.batch_checks import check_groups, check_rows
from paretune.policies.policy import Policy

CANDIDATE_STRIDE = 1_000_003
"""The distance between the seeds of a row's candidates: rows have neighbouring seeds."""


@dataclass(frozen=True, eq=False)
class MixedPolicy(Policy):
    """A policy of one adapter per objective whose next-token distributions are mixed; see :class:`Policy` for the members.

    Attributes:
        mixing: The rule by which distributions are mixed.
    """

    mixing: Mixing

    @classmethod
    def of(
        cls,
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        adapters: Sequence[Adapter],
        mixing: Mixing | None = None,
    ) -> MixedPolicy:
        """Return the policy that mixes one adapter per objective (multi-objective decoding), in that order.

        Adapters trained with different strengths beta_i of the penalty are mixed for the largest of them: objective i has the
        exponent w_i beta_i / beta, and the reference model has what is missing to 1.

        Raises:
            ModelError: The number of adapters is not that of objectives, or one was trained under another divergence.
        """
        mixing = mixing or Mixing()
        if len(adapters) != len(objectives):
            raise ModelError(
                f"MOD needs one adapter per objective: {len(adapters)} adapters for {len(objectives)} objectives"
            )
        for adapter, objective in zip(adapters, objectives, strict=True):
            trained = adapter.info.get("divergence", "reverse-kl" if "method" in adapter.info else None)
            if trained not in (None, mixing.divergence):
                raise ModelError(
                    f"the adapter for {objective!r} was trained under the divergence {trained}; it cannot be mixed under "
                    f"{mixing.divergence}"
                )
            alpha = adapter.info.get("divergence_alpha", mixing.alpha)
            if trained == "alpha" and alpha != mixing.alpha:
                raise ModelError(
                    f"the adapter for {objective!r} was trained under the alpha divergence with alpha {alpha}; it cannot be mixed "
                    f"with alpha {mixing.alpha}"
                )
        return cls(name, lm, tuple(objectives), tuple(adapters), mixing)

    @property
    @override
    def kind(self) -> str:
        return "mod"

    @property
    @override
    def answers_with(self) -> str:
        return ""

    @property
    @override
    def anchor_preferences(self) -> tuple[Preference, ...]:
        return ()

    @override
    def used(self, preferences: Sequence[Preference]) -> list[Preference]:
        return [preference.over(self.objectives) for preference in preferences]

    @override
    def asked(self, prompts: Sequence[Prompt], preferences: Sequence[Preference]) -> list[Prompt]:
        return list(prompts)

    @override
    def asked_of_copies(self, prompt: Prompt, preference: Preference) -> list[Prompt]:
        return []

    @override
    def effective(self, preference: Preference) -> str:
        gates, mixture = self.gates([preference]), self.mixture([preference])
        (used,) = mixture.copies
        powers = mixture.coefficients[0, used].tolist()
        copies = [one_pass.active(self.adapters, gate) for gate in gates[0, used]]
        if powers == [1.0]:  # one copy alone: the same as a policy of that update, or as the base model
            return fingerprint(self.lm.fingerprint, *(copies if not used[0] else []))
        return fingerprint(self.lm.fingerprint, "mixture", vars(self.mixing), powers, copies)

    @property
    @override
    def copies(self) -> int:
        return (1 + len(self.adapters)) * self.mixing.candidates

    @property
    @override
    def passes(self) -> int:
        reference = self.mixing.divergence != "reverse-kl"
        return (len(self.adapters) + reference) * self.mixing.candidates

    @property
    @override
    def candidates(self) -> int:
        return self.mixing.candidates

    @property
    @override
    def no_export(self) -> str:
        return (
            f"{self.name} mixes next-token distributions, which no single update does; export the soup of the same adapters "
            "(methods: dpo-soup), or serve it with paretune"
        )

    @override
    def stand_in(self) -> Policy | None:
        return Policy.soup("soup", self.lm, self.objectives, self.adapters)

    @override
    def gates(self, preferences: Sequence[Preference]) -> Tensor:
        self.weights(preferences)  # refuses what the policy cannot serve
        ranks, scales = [a.rank for a in self.adapters], [a.scale for a in self.adapters]
        corners = torch.cat([torch.zeros(1, len(ranks)), torch.eye(len(ranks))])
        return soup_gates(corners, ranks, scales).expand(len(preferences), -1, -1)

    @override
    def mixture(self, preferences: Sequence[Preference]) -> Mixture:
        betas = [float(adapter.info["beta"]) for adapter in self.adapters if "beta" in adapter.info]
        known = len(betas) == len(self.adapters) and len(set(betas)) > 1
        ratios = torch.tensor(betas, dtype=torch.float64) / max(betas) if known else None
        return Mixture(exponents(self.weights(preferences), ratios), self.mixing)

    @override
    def generate(
        self,
        prompts: Sequence[Prompt],
        preferences: Sequence[Preference],
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Response]:
        seeds = check_rows(prompts, preferences, sampling, seeds)
        ids = [self.lm.encode_prompt(prompt) for prompt in prompts]
        gates, mixture, n = self.gates(preferences), self.mixture(preferences), self.candidates
        rows = [row for row in range(len(ids)) for _ in range(n)]
        with attached(self.lm, stack(self.adapters)) as steering:
            drawn = generate(
                self.lm,
                [ids[row] for row in rows],
                sampling or Sampling(),
                [candidate_seed(seed, number) for seed in seeds for number in range(n)],
                steering,
                gates[rows],
                f"sampling {self.name}",
                mixture[rows],
            )
        if n == 1:
            return drawn
        by_row = [drawn[start : start + n] for start in range(0, len(drawn), n)]
        return [
            row[kept_candidate([response.normalisers for response in row], seed)]
            for row, seed in zip(by_row, seeds, strict=True)
        ]

    @override
    def logps(self, groups: Sequence[TokenGroup], preferences: Sequence[Preference]) -> list[Tensor]:
        check_groups(groups, preferences)

        def logp(prompt: Sequence[int], response: Sequence[int], preference: Preference) -> Tensor:
            return one_pass.chosen_logps(self.distribution(prompt, response, preference), response).sum()

        return [
            torch.stack([logp(prompt, response, preference) for response in responses])
            for (prompt, responses), preference in zip(groups, preferences, strict=True)
        ]

    @override
    @torch.no_grad()
    def distribution(self, prompt: Sequence[int], response: Sequence[int], preference: Preference) -> Tensor:
        gates, mixture = self.gates([preference]), self.mixture([preference])
        owners, kinds = mixture.copies.nonzero(as_tuple=True)
        with attached(self.lm, stack(self.adapters)) as steering, steering.at(gates[owners, kinds]):
            logits = one_pass.logits_before(self.lm, prompt, response, len(kinds))  # [copies, T, V]
        T = len(response)
        rows = torch.arange(T).repeat_interleave(len(kinds))  # every token is a row of its own
        mixed, _ = mix(
            logits.transpose(0, 1).flatten(0, 1),
            rows,
            kinds.repeat(T),
            mixture[[0] * T],
        )
        return mixed.log_softmax(-1)


def candidate_seed(seed: int, number: int) -> int:
    """Return the seed of a row's candidate ``number``; candidate 0 is what would be drawn alone."""
    return seed + CANDIDATE_STRIDE * number


def kept_candidate(normalisers: Sequence[Sequence[float]], seed: int) -> int:
    """Return the number of the candidate that is kept, from log Z of the tokens of each; see :func:`resample`."""
    weights = torch.tensor([[sum(tokens) for tokens in normalisers]])
    return int(resample(weights, uniforms(seed, 1))[0])
