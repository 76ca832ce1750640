"""Policies that read the preference in the prompt: Rewards-in-Context. How it is written is in :mod:`paretune.policies.prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from paretune.core.errors import ModelError
from paretune.core.files import fingerprint
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.generate import Response
from paretune.generation.mixing import Mixture
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.policies import one_pass
from paretune.policies.batch_checks import check_groups, check_objectives, check_rows
from paretune.policies.policy import Policy
from paretune.policies.prompts import Prompting


@dataclass(frozen=True, eq=False)
class PromptedPolicy(Policy):
    """A policy of one adapter that reads wanted scores in the prompt; see :class:`Policy` for the members.

    Attributes:
        prompting: How a preference becomes tags in the prompt.
    """

    prompting: Prompting

    @classmethod
    def of(cls, name: str, lm: LanguageModel, objectives: Sequence[str], adapter: Adapter) -> PromptedPolicy:
        """Return the policy of an adapter whose info says how preferences are written into prompts.

        Raises:
            ModelError: The info does not say it, the adapter was trained for other objectives, or it lacks embeddings of
                its tags.
        """
        if "prompting" not in adapter.info:
            raise ModelError(
                "the adapter does not say how preferences are written into prompts; it was not trained for it"
            )
        prompting = Prompting.from_dict(adapter.info["prompting"])
        check_objectives(prompting.objectives, objectives)
        lm = replace(lm, tags=prompting.tags)
        lm.check_tags(adapter)
        return cls(name, lm, tuple(objectives), (adapter,), prompting)

    @property
    @override
    def kind(self) -> str:
        return "prompt"

    @property
    @override
    def answers_with(self) -> str:
        return "the scores it saw in training"

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
            self.prompting.prompt(prompt, self.prompting.targets(preference.over(self.objectives)))
            for prompt, preference in zip(prompts, preferences, strict=True)
        ]

    @override
    def asked_of_copies(self, prompt: Prompt, preference: Preference) -> list[Prompt]:
        return []

    @override
    def effective(self, preference: Preference) -> str:
        update = one_pass.active(self.adapters, self.gates([preference])[0])
        return fingerprint(self.lm.fingerprint, update, self.prompting.targets(preference))

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
        return ""

    @override
    def stand_in(self) -> Policy | None:
        return None

    @override
    def gates(self, preferences: Sequence[Preference]) -> Tensor:
        self.weights(preferences)  # refuses what the policy cannot serve
        return self.adapters[0].gates().expand(len(preferences), -1)

    @override
    def mixture(self, preferences: Sequence[Preference]) -> Mixture | None:
        return None

    @override
    def generate(
        self,
        prompts: Sequence[Prompt],
        preferences: Sequence[Preference],
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Response]:
        seeds = check_rows(prompts, preferences, sampling, seeds)
        ids = [self.lm.encode_prompt(prompt) for prompt in self.asked(prompts, preferences)]
        gates, title = self.gates(preferences), f"sampling {self.name}"
        return one_pass.draw(self.lm, self.adapters, gates, ids, sampling or Sampling(), seeds, title)

    @override
    def logps(self, groups: Sequence[TokenGroup], preferences: Sequence[Preference]) -> list[Tensor]:
        check_groups(groups, preferences)
        return one_pass.logps(self.lm, self.adapters, self.gates(preferences), groups)

    @override
    def distribution(self, prompt: Sequence[int], response: Sequence[int], preference: Preference) -> Tensor:
        return one_pass.distribution(self.lm, self.adapters, self.gates([preference]), prompt, response)
