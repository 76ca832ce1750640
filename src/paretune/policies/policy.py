"""A policy maps (prompt, preference) to text; whoever holds one need not know which method made it, nor of which kind it is.

:class:`Policy` is what everybody else works with. Of its kinds, :class:`GatedPolicy` follows the preference by the gates of one
update, :class:`paretune.policies.mixed.MixedPolicy` mixes several copies of a row while decoding,
:class:`paretune.policies.prompted.PromptedPolicy` writes the preference into the prompt, its neighbour ``PrincipledPolicy`` asks
the base model for it in words, and :class:`paretune.policies.valued.ValuedPolicy` re-scores its next tokens by value heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from paretune.core.errors import ModelError, PreferenceError
from paretune.core.files import fingerprint
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message, Prompt
from paretune.generation.generate import Response
from paretune.generation.mixing import Mixing, Mixture
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.policies import one_pass
from paretune.policies.batch_checks import check_groups, check_objectives, check_rows
from paretune.policies.gating import Anchors, Between, BetweenAnchors, Conditioned, Gating, NoUpdate, Soup
from paretune.policies.principles import Guidance, Principles


@dataclass(frozen=True, eq=False)
class Policy(ABC):
    """A frozen model with low-rank updates that follows the preference of each row.

    The constructors below name the kinds of the literature. This class is abstract; its subclasses are final.

    Attributes:
        name: The name of the method, or one that the user chose.
        lm: The frozen base model, which reads the tags of a prompted policy as tokens.
        objectives: M names, in the order of preferences' weights.
        adapters: The updates; none where the policy is the base model.
    """

    name: str
    lm: LanguageModel
    objectives: tuple[str, ...]
    adapters: tuple[Adapter, ...]

    # Constructors. Modules that build on this one are imported inside.

    @staticmethod
    def base(lm: LanguageModel, objectives: Sequence[str]) -> Policy:
        """Return the base model as a policy: every preference gives the same."""
        return GatedPolicy("base", lm, tuple(objectives), (), NoUpdate())

    @staticmethod
    def soup(name: str, lm: LanguageModel, objectives: Sequence[str], adapters: Sequence[Adapter]) -> Policy:
        """Return the exact soup of one adapter per objective (in that order).

        Raises:
            ModelError: The number of adapters is not that of objectives.
        """
        if len(adapters) != len(objectives):
            raise ModelError(
                f"a soup needs one adapter per objective: {len(adapters)} adapters for {len(objectives)} objectives"
            )
        return GatedPolicy(name, lm, tuple(objectives), tuple(adapters), Soup())

    @staticmethod
    def anchors(
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        adapters: Sequence[Adapter],
        preferences: Sequence[Preference],
        between: BetweenAnchors = "nearest",
    ) -> Policy:
        """Return the policy that answers each preference with the adapter trained nearest to it, or with a soup of those around it.

        Args:
            name: The name of the method, or one that the user chose.
            lm: The frozen base model.
            objectives: M names.
            adapters: K updates.
            preferences: The K different preferences that they were trained for.
            between: ``nearest`` or ``soup``, see :class:`paretune.policies.gating.Between`.

        Raises:
            ModelError: The number of adapters is not that of preferences, there are none, or two of a soup are of one preference.
        """
        if len(adapters) != len(preferences) or not adapters:
            raise ModelError(
                f"anchors need one adapter per preference: {len(adapters)} adapters for {len(preferences)} preferences"
            )
        over = tuple(preference.over(objectives) for preference in preferences)
        if between == "soup" and len(set(over)) < len(over):
            raise ModelError(
                f"a soup of anchors needs one adapter per preference; {next(w for w in over if over.count(w) > 1)} has several"
            )
        gating = Between(over) if between == "soup" else Anchors(over)
        return GatedPolicy(name, lm, tuple(objectives), tuple(adapters), gating)

    @staticmethod
    def conditioned(name: str, lm: LanguageModel, objectives: Sequence[str], adapter: Adapter) -> Policy:
        """Return the policy of one adapter trained for all preferences (Panacea).

        Raises:
            ModelError: The blocks do not fit, or the adapter was trained for other objectives, or another order of them.
        """
        check_objectives(adapter.info.get("objectives", list(objectives)), objectives)
        gating = Conditioned()
        gating.check(adapter, objectives)
        return GatedPolicy(name, lm, tuple(objectives), (adapter,), gating)

    @staticmethod
    def mod(
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        adapters: Sequence[Adapter],
        mixing: Mixing | None = None,
    ) -> Policy:
        """Return the policy that mixes next-token distributions, see :meth:`paretune.policies.mixed.MixedPolicy.of`."""
        from paretune.policies.mixed import MixedPolicy

        return MixedPolicy.of(name, lm, objectives, adapters, mixing)

    @staticmethod
    def prompted(name: str, lm: LanguageModel, objectives: Sequence[str], adapter: Adapter) -> Policy:
        """Return the policy that reads the preference in the prompt, see :meth:`paretune.policies.prompted.PromptedPolicy.of`."""
        from paretune.policies.prompted import PromptedPolicy

        return PromptedPolicy.of(name, lm, objectives, adapter)

    @staticmethod
    def principled(
        name: str,
        lm: LanguageModel,
        objectives: Sequence[str],
        principles: Principles,
        guidance: Guidance | None = None,
    ) -> Policy:
        """Return the base model asked in words, see :meth:`paretune.policies.principled.PrincipledPolicy.of`."""
        from paretune.policies.principled import PrincipledPolicy

        return PrincipledPolicy.of(name, lm, objectives, principles, guidance)

    @staticmethod
    def load(folder: str | Path, lm: LanguageModel) -> Policy:
        """Read a policy onto its base model, see :func:`paretune.policies.saving.load`."""
        from paretune.policies.saving import load

        return load(folder, lm)

    def save(self, folder: str | Path) -> None:
        """Write the policy into ``folder``, see :func:`paretune.policies.saving.save`."""
        from paretune.policies.saving import save

        save(self, folder)

    # How it follows a preference

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name of the kind in ``policy.json``."""

    @property
    @abstractmethod
    def answers_with(self) -> str:
        """What answers where a preference has a negative weight, in words; empty where the policy extrapolates."""

    @property
    def extrapolates(self) -> bool:
        """Whether preferences off the simplex mean something to this policy."""
        return not self.answers_with

    @property
    def has_strength(self) -> bool:
        """Whether the update as a whole can be scaled, see :attr:`paretune.core.preference.Preference.strength`."""
        return False

    @property
    @abstractmethod
    def anchor_preferences(self) -> tuple[Preference, ...]:
        """The preferences the policy answers with, if only these; otherwise none."""

    @abstractmethod
    def used(self, preferences: Sequence[Preference]) -> list[Preference]:
        """Return the preferences that are really served: those given, or the nearest anchors."""

    @abstractmethod
    def asked(self, prompts: Sequence[Prompt], preferences: Sequence[Preference]) -> list[Prompt]:
        """Return the prompts as the model reads them: with the wanted scores where the preference enters there."""

    @abstractmethod
    def asked_of_copies(self, prompt: Prompt, preference: Preference) -> list[Prompt]:
        """Return the prompt that each copy of a row reads, in the order of the copies that :meth:`mixture` runs.

        Empty where all of them read what is :meth:`asked`.
        """

    def around(self, preference: Preference) -> tuple[str, str]:
        """Return what this policy writes before and behind a prompt that is plain text; often nothing."""
        (asked,) = self.asked([(Message("user", ""),)], [preference])
        return plain(asked[:-1]), asked[-1].content

    def prompt_end(self, preference: Preference) -> str:
        """Return what this policy appends to the last user turn of a prompt; often nothing."""
        return self.around(preference)[1]

    @abstractmethod
    def effective(self, preference: Preference) -> str:
        """Identify what this policy computes at one preference: equal for two policies that share a model there."""

    def weights(self, preferences: Sequence[Preference]) -> Tensor:
        """Return preferences as ``[B, M]`` fp32 in the order of this policy's objectives.

        Raises:
            PreferenceError: An objective or a strength this policy does not know, or a negative weight where it cannot extrapolate.
        """
        beyond = [preference for preference in preferences if preference.extrapolated]
        if beyond and not self.extrapolates:
            raise PreferenceError(
                f"{self.name} answers with {self.answers_with}, so it cannot extrapolate to {beyond[0]}; a soup or "
                "Panacea can"
            )
        strong = [preference for preference in preferences if preference.strength != 1]
        if strong and not self.has_strength:
            raise PreferenceError(
                f"{self.name} has no strength to set, as the preference is not in the gates of one update; it was asked for "
                f"{strong[0]}; leave the strength out, or use a soup, anchors, Panacea or VAS"
            )
        return torch.tensor(
            np.stack([preference.over(self.objectives).array() for preference in preferences]),
            dtype=torch.float32,
        )

    # What it costs, and what others can make of it

    @property
    @abstractmethod
    def copies(self) -> int:
        """The most copies of a row that one token needs a forward pass of."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward passes per token of a kept answer, away from the corners of the simplex."""

    @property
    @abstractmethod
    def candidates(self) -> int:
        """Answers drawn for each that is kept."""

    @property
    @abstractmethod
    def no_export(self) -> str:
        """Why no single LoRA or dense model does what this policy does, and what to do; empty where one does."""

    @abstractmethod
    def stand_in(self) -> Policy | None:
        """Return the policy of the same adapters and one pass per token that may do instead; None where this is one."""

    # How it runs

    @abstractmethod
    def gates(self, preferences: Sequence[Preference]) -> Tensor | None:
        """Return the gates over the ranks of all adapters, one row per preference; None for the base model.

        ``[B, R]``, or ``[B, 1 + M, R]`` where :meth:`mixture` mixes copies: of the reference model and of each adapter.
        """

    @abstractmethod
    def mixture(self, preferences: Sequence[Preference]) -> Mixture | None:
        """Return how copies of each row are mixed at B preferences; None where a row is one copy."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Prompt],
        preferences: Sequence[Preference],
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Response]:
        """Sample one response per row; every row of the one batch follows its own preference.

        Args:
            prompts: B conversations.
            preferences: B preferences, one per row.
            sampling: Length, temperature and top-p; by default 128 tokens at temperature 1.
            seeds: B seeds; by default 0..B-1. A row's text depends on its own prompt, preference and seed.

        Raises:
            PreferenceError: Another number of preferences than prompts, or an unknown objective.
            ParetuneError: No rows, or something that is no prompt, no sampling or no seed.
        """

    @abstractmethod
    def logps(self, groups: Sequence[TokenGroup], preferences: Sequence[Preference]) -> list[Tensor]:
        """Return the log-probabilities of each group's responses under its own preference, in nats.

        Prompts are as the model reads them (:meth:`asked`).

        Raises:
            PreferenceError: Another number of preferences than groups, or an unknown objective.
            ParetuneError: No groups, or something that is none.
        """

    @abstractmethod
    def distribution(self, prompt: Sequence[int], response: Sequence[int], preference: Preference) -> Tensor:
        """Return the next-token log-probabilities ``[T, V]`` (fp32) before each of the T tokens of a response.

        The prompt is as the model reads it (:meth:`asked`).
        """


@dataclass(frozen=True, eq=False)
class GatedPolicy(Policy):
    """A policy whose preference sets the gates of one update; see :class:`Policy` for the members.

    Attributes:
        gating: The rule from preferences to gates.
    """

    gating: Gating

    @property
    @override
    def kind(self) -> str:
        return self.gating.kind

    @property
    @override
    def answers_with(self) -> str:
        if isinstance(self.gating, Between) and not self.gating.affine:
            return "soups of the adapters around a preference"
        return "the nearest of its anchors" if self.anchor_preferences else ""

    @property
    @override
    def has_strength(self) -> bool:
        return bool(self.adapters)

    @property
    @override
    def anchor_preferences(self) -> tuple[Preference, ...]:
        return self.gating.anchors

    @override
    def used(self, preferences: Sequence[Preference]) -> list[Preference]:
        if not isinstance(self.gating, Anchors):
            return [preference.over(self.objectives) for preference in preferences]
        choice = self.gating.choice(self.weights(preferences))
        at = zip(choice.tolist(), preferences, strict=True)
        return [self.gating.anchors[number].at(preference.strength) for number, preference in at]

    @override
    def asked(self, prompts: Sequence[Prompt], preferences: Sequence[Preference]) -> list[Prompt]:
        return list(prompts)

    @override
    def asked_of_copies(self, prompt: Prompt, preference: Preference) -> list[Prompt]:
        return []

    @override
    def effective(self, preference: Preference) -> str:
        gates = self.gates([preference])
        update = [] if gates is None else [one_pass.active(self.adapters, gates[0])]
        return fingerprint(self.lm.fingerprint, *update)

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
        return "" if self.adapters else "the base model has no update to export; use it as it is"

    @override
    def stand_in(self) -> Policy | None:
        return None

    @override
    def gates(self, preferences: Sequence[Preference]) -> Tensor | None:
        gates = self.gating.gates(self.adapters, self.weights(preferences))
        strengths = torch.tensor([[preference.strength] for preference in preferences])
        return gates if gates is None or bool((strengths == 1).all()) else gates * strengths

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
        ids = [self.lm.encode_prompt(prompt) for prompt in prompts]
        gates, title = self.gates(preferences), f"sampling {self.name}"
        return one_pass.draw(self.lm, self.adapters, gates, ids, sampling or Sampling(), seeds, title)

    @override
    def logps(self, groups: Sequence[TokenGroup], preferences: Sequence[Preference]) -> list[Tensor]:
        check_groups(groups, preferences)
        return one_pass.logps(self.lm, self.adapters, self.gates(preferences), groups)

    @override
    def distribution(self, prompt: Sequence[int], response: Sequence[int], preference: Preference) -> Tensor:
        return one_pass.distribution(self.lm, self.adapters, self.gates([preference]), prompt, response)


def trained_preferences(policy: Policy) -> tuple[Preference, ...]:
    """Return the preferences that a soup of anchors interpolates between; none for other policies."""
    if isinstance(policy, GatedPolicy) and isinstance(policy.gating, Between):
        return policy.gating.trained
    return ()


def is_interpolated(policy: Policy, preference: Preference) -> bool:
    """Return whether a soup of anchors answers, of which none was trained for the preference."""
    trained = trained_preferences(policy)
    return bool(trained) and preference.over(policy.objectives).at(1) not in trained


def plain(messages: Sequence[Message]) -> str:
    """Return the texts of messages as they stand before a prompt that is plain text."""
    return "".join(f"{message.content}\n\n" for message in messages)
