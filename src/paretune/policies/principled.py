"""Policies that are told the preference in words and train nothing: plain prompting, and linear alignment.

The words are in :mod:`paretune.policies.principles`, the mathematics of linear alignment in :mod:`paretune.generation.mixing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from typing_extensions import override

from paretune.core.errors import ModelError
from paretune.core.files import fingerprint
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.batch import Slot
from paretune.generation.generate import Response, respond
from paretune.generation.mixing import Mixture, contrast, mix
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.policies import one_pass
from paretune.policies.batch_checks import check_groups, check_rows
from paretune.policies.policy import Policy
from paretune.policies.principles import Guidance, Principles


@dataclass(frozen=True, eq=False)
class PrincipledPolicy(Policy):
    """The base model under a prompt that asks for the preference in words; see :class:`Policy` for the members.

    With guidance a row is run once for each principle that has weight, which alone stands in the prompt of that copy, and once
    without a principle; their logits are combined (:func:`paretune.generation.mixing.contrast`).

    Attributes:
        principles: The words.
        guidance: The strength of linear alignment; None is plain prompting.
    """

    principles: Principles
    guidance: Guidance | None

    @classmethod
    def of(
        cls,
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        principles: Principles,
        guidance: Guidance | None = None,
    ) -> PrincipledPolicy:
        """Return the policy that asks for the objectives by these principles.

        Raises:
            ConfigError: A principle of another objective.
        """
        principles.check(objectives)
        return cls(name, lm, tuple(objectives), (), principles, guidance)

    @property
    @override
    def kind(self) -> str:
        return "principles"

    @property
    @override
    def answers_with(self) -> str:
        return "words that ask for the objectives"

    @property
    @override
    def anchor_preferences(self) -> tuple[Preference, ...]:
        return ()

    @override
    def used(self, preferences: Sequence[Preference]) -> list[Preference]:
        return [preference.over(self.objectives) for preference in preferences]

    @override
    def asked(self, prompts: Sequence[Prompt], preferences: Sequence[Preference]) -> list[Prompt]:
        return [
            self.principles.prompt(prompt, self.principles.words(preference.over(self.objectives)))
            for prompt, preference in zip(prompts, preferences, strict=True)
        ]

    @override
    def asked_of_copies(self, prompt: Prompt, preference: Preference) -> list[Prompt]:
        return [self.principles.prompt(prompt, words) for words in self._copies(preference)]

    def _copies(self, preference: Preference) -> list[str]:
        """Return the words of each copy that is run, without a principle first; none where there is one copy."""
        weights = preference.over(self.objectives).as_dict()
        asked = [self.principles.principle(name) for name, weight in weights.items() if weight]
        return [] if self.guidance is None else ["", *asked]

    @override
    def effective(self, preference: Preference) -> str:
        mixture, place = self.mixture([preference]), (self.principles.place, self.principles.provider)
        if mixture is None or self.guidance is None:
            words = self.principles.words(preference.over(self.objectives))
            return fingerprint(self.lm.fingerprint, "principles", place, words)
        powers = mixture.coefficients[mixture.copies].tolist()
        guidance = asdict(self.guidance)
        return fingerprint(self.lm.fingerprint, "guidance", place, guidance, powers, self._copies(preference))

    @property
    @override
    def copies(self) -> int:
        return 1 if self.guidance is None else 1 + len(self.objectives)

    @property
    @override
    def passes(self) -> int:
        return self.copies

    @property
    @override
    def candidates(self) -> int:
        return 1

    @property
    @override
    def no_export(self) -> str:
        return (
            f"{self.name} trains nothing, so there is no update to export; serve it with paretune, or write its words into the "
            "prompts that another server gets"
        )

    @override
    def stand_in(self) -> Policy | None:
        return None

    @override
    def gates(self, preferences: Sequence[Preference]) -> Tensor | None:
        self.weights(preferences)  # refuses what the policy cannot serve
        return None

    @override
    def mixture(self, preferences: Sequence[Preference]) -> Mixture | None:
        if self.guidance is None:
            return None
        coefficients = contrast(self.weights(preferences), self.guidance.strength)
        return Mixture(coefficients, nucleus=self.guidance.nucleus)

    @override
    def generate(
        self,
        prompts: Sequence[Prompt],
        preferences: Sequence[Preference],
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Response]:
        seeds = check_rows(prompts, preferences, sampling, seeds)
        sampling, title, mixture = sampling or Sampling(), f"sampling {self.name}", self.mixture(preferences)
        self.weights(preferences)
        if mixture is None:
            ids = [self.lm.encode_prompt(prompt) for prompt in self.asked(prompts, preferences)]
            return one_pass.draw(self.lm, (), None, ids, sampling, seeds, title)
        rows = []
        for number, (prompt, preference, seed) in enumerate(zip(prompts, preferences, seeds, strict=True)):
            read = [self.lm.encode_prompt(copy) for copy in self.asked_of_copies(prompt, preference)]
            rows.append(Slot(read[0], sampling, seed, mixture=mixture[[number]], prompts=read))
        return respond(self.lm, rows, sampling, description=title)

    @override
    def logps(self, groups: Sequence[TokenGroup], preferences: Sequence[Preference]) -> list[Tensor]:
        check_groups(groups, preferences)
        self.weights(preferences)
        self._require_one_prompt()
        return one_pass.logps(self.lm, (), None, groups)

    @override
    def distribution(self, prompt: Sequence[int], response: Sequence[int], preference: Preference) -> Tensor:
        self.weights([preference])
        self._require_one_prompt()
        return one_pass.distribution(self.lm, (), None, prompt, response)

    def _require_one_prompt(self) -> None:
        if self.guidance is not None:
            raise ModelError(
                f"{self.name} reads a prompt of its own for each principle, which the token ids of one do not tell; give the "
                "conversation to distribution_behind"
            )

    @torch.no_grad()
    def distribution_behind(self, prompt: Prompt, response: Sequence[int], preference: Preference) -> Tensor:
        """Return the next-token log-probabilities ``[T, V]`` (fp32) before each of the T tokens of a response to a conversation.

        The conversation is as the user wrote it. Outside the nucleus they are -inf.
        """
        mixture = self.mixture([preference])
        if mixture is None:
            (asked,) = self.asked([prompt], [preference])
            return self.distribution(self.lm.encode_prompt(asked), response, preference)
        copies = [self.lm.encode_prompt(copy) for copy in self.asked_of_copies(prompt, preference)]
        logits = torch.cat(
            [one_pass.logits_before(self.lm, ids, response) for ids in copies]
        )  # [copies, T, V]
        T, kinds = len(response), mixture.copies[0].nonzero()[:, 0]
        rows = torch.arange(T).repeat_interleave(len(kinds))  # every token is a row of its own
        mixed, _ = mix(logits.transpose(0, 1).flatten(0, 1), rows, kinds.repeat(T), mixture[[0] * T])
        return mixed.log_softmax(-1)
