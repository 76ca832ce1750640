"""The frozen model whose likeliest next tokens are re-scored by value heads (VAS).

The mathematics is in :mod:`paretune.generation.rescoring`, the heads in :mod:`paretune.models.values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from paretune.core.errors import ModelError
from paretune.core.files import fingerprint
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.generate import Response, generate
from paretune.generation.mixing import Mixture
from paretune.generation.rescoring import Augmentation, Rescoring
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.models.values import Values, hidden_size, last_states
from paretune.policies import one_pass
from paretune.policies.batch_checks import check_groups, check_rows
from paretune.policies.policy import Policy


@dataclass(frozen=True, eq=False)
class ValuedPolicy(Policy):
    """The base model with one value head per objective; see :class:`Policy` for the members.

    Attributes:
        values: The heads, in the order of the objectives, on the CPU.
        augmentation: The strength beta and the number of tokens that are re-scored.
    """

    values: Values
    augmentation: Augmentation

    @classmethod
    def of(
        cls,
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        values: Values,
        augmentation: Augmentation | None = None,
    ) -> ValuedPolicy:
        """Return the policy of value heads at a strength.

        Raises:
            ModelError: The heads are for other objectives, or another order of them, or read the states of another base model.
        """
        if tuple(objectives) != values.objectives:
            raise ModelError(
                f"value heads for the objectives {list(values.objectives)}, in this order; they cannot serve {list(objectives)}"
            )
        known = values.base in lm.fingerprints
        values.check_base("" if known else lm.fingerprint, hidden_size(lm.model))
        return cls(name, lm, tuple(objectives), (), values, augmentation or Augmentation())

    def at(self, beta: float) -> ValuedPolicy:
        """Return the same policy at another strength: beta is a dial, for which nothing is trained again.

        Raises:
            ConfigError: beta is below 0.
        """
        return replace(self, augmentation=replace(self.augmentation, beta=beta))

    @cached_property
    def rescoring(self) -> Rescoring:
        """The heads on the model's device; one object, so that rows of different requests are re-scored together."""
        embeddings = self.lm.model.get_input_embeddings()
        return Rescoring(self.values.to(self.lm.device), embeddings, self.augmentation.candidates)

    @property
    @override
    def kind(self) -> str:
        return "values"

    @property
    @override
    def answers_with(self) -> str:
        return ""

    @property
    @override
    def has_strength(self) -> bool:
        return True  # it multiplies beta

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
        strengths = self.mixture([preference]).coefficients[0, 1:].tolist()
        if not any(strengths):
            return fingerprint(self.lm.fingerprint)
        candidates = self.augmentation.candidates
        return fingerprint(self.lm.fingerprint, "values", self.values.fingerprint, strengths, candidates)

    @property
    @override
    def copies(self) -> int:
        return 1

    @property
    @override
    def passes(self) -> int:
        return 1

    @property
    @override
    def candidates(self) -> int:
        return 1

    @property
    @override
    def no_export(self) -> str:
        return (
            f"{self.name} re-scores next tokens by value heads and has no update of the model to export; serve it with paretune, "
            "or export a policy of adapters"
        )

    @override
    def stand_in(self) -> Policy | None:
        return None

    @override
    def gates(self, preferences: Sequence[Preference]) -> Tensor | None:
        self.weights(preferences)  # refuses what the policy cannot serve
        return None

    @override
    def mixture(self, preferences: Sequence[Preference]) -> Mixture:
        asked = torch.tensor([[preference.strength] for preference in preferences], dtype=torch.float64)
        strengths = self.augmentation.beta * asked * self.weights(preferences).double()
        reference = torch.ones(len(strengths), 1, dtype=torch.float64)
        return Mixture(torch.cat([reference, strengths], dim=1), rescoring=self.rescoring)

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
        mixture, title = self.mixture(preferences), f"sampling {self.name}"
        return generate(self.lm, ids, sampling or Sampling(), seeds, None, None, title, mixture)

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
        strengths = self.mixture([preference]).coefficients[:, 1:]
        with last_states(self.lm.model) as states:
            (logits,) = one_pass.logits_before(self.lm, prompt, response)
        T = len(response)
        hidden = states[-1][0, -T - 1 : -1]
        return self.rescoring(logits, hidden, strengths.expand(T, -1)).log_softmax(-1)
