"""The goal of an on-policy run and the settings of its estimator: plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from paretune.core.bounds import Count, NotNegative, Positive, check_bounds
from paretune.core.errors import ConfigError, TrainingError, suggest
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.core.settings import as_values
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.models.language_model import LanguageModel
from paretune.policies.prompts import Prompting
from paretune.scoring.scorer import Scorer
from paretune.scoring.standardise import Standardisation
from paretune.training.conditioning import Conditioning
from paretune.training.prompt_cuts import cut_at_start
from paretune.training.rl.advantages import Combine
from paretune.training.rl.weighing import Floors, Guard
from paretune.training.token_tables import Limit, Say


@dataclass(frozen=True)
class RLSettings:
    """How a policy learns from its own responses.

    Attributes:
        beta: Strength of the KL penalty to the base model, in standard deviations of reward per nat (of the whole response
            for ``rloo``, of a token for ``grpo``).
        responses: Number K of responses sampled for each prompt, at temperature 1 over the whole vocabulary: from the policy
            that is trained.
        estimator: Estimator of the gradient. ``rloo``: leave-one-out baseline, one ratio per response, the penalty in the
            reward; its optimum is ``pi_ref exp(w.r / beta)``. ``grpo``: advantages divided by the group's deviation, ratios and
            penalty per token; its strength follows that deviation. ``dpo``: DPO's loss on the best and the worst of the K
            responses (online DPO), whose ``beta`` is DPO's, above 0, in nats; it knows who wins, not by how much.
        aggregation: Way from M rewards to one, see :func:`paretune.training.rl.advantages.combined`: ``sum``, ``decoupled``,
            ``gd2po`` (with ``estimator: grpo``), ``dvao``, or ``guarded``.
        epochs: Optimiser steps on the same responses; from the second on ratios differ from 1 and are clipped.
        clip: Width of the trust region.
        time_limit: Seconds that a reward function may take for the responses of one step; 0 is no limit.
    """

    beta: NotNegative = 0.05
    responses: Annotated[int, Ge(2)] = 8
    estimator: Literal["rloo", "grpo", "dpo"] = "rloo"
    aggregation: Combine = "sum"
    epochs: Count = 1
    clip: Positive = 0.2
    time_limit: NotNegative = 300.0

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.estimator == "dpo" and not self.beta:
            raise ConfigError(
                "beta: 0 with estimator: dpo, which divides by it; set beta above 0, such as 0.1"
            )
        if self.aggregation == "gd2po" and self.estimator != "grpo":
            raise ConfigError(
                f"aggregation: gd2po with estimator: {self.estimator}: it leaves responses out by their advantages, which only "
                "estimator: grpo has before the penalty"
            )
        if self.aggregation == "guarded" and self.estimator == "dpo":
            raise ConfigError(
                "aggregation: guarded with estimator: dpo: its weights answer to the covariance of rewards and advantages, and a "
                "pair has none; use estimator: rloo"
            )

    @property
    def remembers(self) -> bool:
        """Whether the log-probabilities before the first step are needed at later ones on the same responses."""
        return self.epochs > 1 and self.estimator != "dpo"

    def check(self, conditioning: Conditioning) -> None:
        """Check that rewards of several objectives can be combined as ``conditioning`` says under this estimator.

        Raises:
            ConfigError: They cannot.
        """
        if self.estimator != "rloo" and conditioning.aggregation != "linear":
            why = {
                "grpo": "grpo divides by the deviation of the group, which takes the weight out of it",
                "dpo": "dpo knows only which response is the best",
            }[self.estimator]
            raise ConfigError(f"scalarisation: {conditioning.aggregation} needs estimator: rloo; {why}")
        if self.estimator != "rloo" and conditioning.rule.apart:
            raise ConfigError(
                f"gradients: {conditioning.gradients} needs estimator: rloo, whose loss is the weighted sum of those of the "
                f"objectives; with estimator: {self.estimator} it is not"
            )
        if conditioning.rule.apart and self.aggregation not in ("sum", "decoupled"):
            raise ConfigError(
                f"gradients: {conditioning.gradients} with aggregation: {self.aggregation}: the latter weighs all rewards at once, "
                "and gradients are of each by itself; use aggregation: sum or decoupled"
            )


@dataclass(frozen=True, eq=False)
class Reward:
    """The goal of an on-policy run: all that decides it beside model and training settings.

    Attributes:
        prompts: Prompts to sample responses to.
        scorers: M reward functions, one per objective.
        scale: Mean and deviation of each raw reward, fixed; rewards are standardised by it.
        sampling: Length and rows decoded together; the rest is not read.
        settings: Settings of the estimator.
        preference: w of a run for one preference; None draws one for each prompt or step, see ``conditioning``.
        conditioning: Draws of preferences, gates that follow them, and the aggregation of M objectives.
        prompting: Form of the preference in the prompt, where it is not in the gates.
        ideal: Standardised reward of each objective that is not exceeded, for the Tchebycheff forms.
        worst: Standardised reward of each objective above which it gains, for the product.
        server: Server that samples the responses from a LoRA, see :mod:`paretune.training.rl.served`; None samples them here.
        consensus: Agreement of objectives on a response that is trained on, with ``aggregation: gd2po``.
        guard: How weights answer to covariances, with ``aggregation: guarded``.
        floors: Smallest mean scores that training is held to.
    """

    prompts: tuple[Prompt, ...]
    scorers: tuple[Scorer, ...]
    scale: Standardisation
    sampling: Sampling
    settings: RLSettings
    preference: Preference | None = None
    conditioning: Conditioning = field(default_factory=Conditioning)
    prompting: Prompting | None = None
    ideal: tuple[float, ...] = ()
    worst: tuple[float, ...] = ()
    server: Endpoint | None = None
    consensus: float = 1.0
    guard: Guard = field(default_factory=Guard)
    floors: Floors = field(default_factory=Floors)

    def __post_init__(self) -> None:
        names = tuple(scorer.objective for scorer in self.scorers)
        if names != self.scale.objectives or (
            self.preference is not None and self.preference.objectives != names
        ):
            raise TrainingError(
                f"reward functions for {', '.join(names)}; expected one for each of {', '.join(self.scale.objectives)}, in "
                "this order, and a preference over them"
            )
        if self.conditioning.aggregation != "linear" and len(self.ideal) != len(names):
            raise TrainingError(
                f"ideal {list(self.ideal)}; scalarisation needs one number for each of {', '.join(names)}"
            )
        if self.preference is None:
            self.conditioning.check_means()
        if self.conditioning.hidden:
            raise ConfigError(
                f"hidden: {self.conditioning.hidden} features bend the gates, and responses are sampled at straight ones; set "
                "hidden to 0"
            )
        self.settings.check(self.conditioning)
        for name in self.floors.floors:
            if name not in names:
                raise ConfigError(f"floors: unknown objective {name!r}; {suggest(name, list(names))}")
        if self.adaptive and (self.conditioning.aggregation != "linear" or self.conditioning.rule.apart):
            raise ConfigError(
                "floors and aggregation: guarded change the weights of a linear sum; use scalarisation: linear and gradients: "
                "linear"
            )

    @property
    def adaptive(self) -> bool:
        """Whether what the samples show changes the weights of objectives."""
        return self.settings.aggregation == "guarded" or bool(self.floors.floors)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names, in the order of weights."""
        return self.scale.objectives

    def asked(self, prompt: Prompt, weights: Tensor) -> Prompt:
        """Return a prompt as the policy reads it at the weights ``[M]``."""
        if self.prompting is None:
            return prompt
        asked = Preference.of(
            dict(zip(self.objectives, weights.double().tolist(), strict=True)), self.objectives
        )
        return self.prompting.prompt(prompt, self.prompting.targets(asked))

    def cut(self, lm: LanguageModel, limit: Limit, say: Say) -> Reward:
        """Return the goal with the prompts that leave no room for a response cut at their beginning, where ``limit`` says so."""
        if limit.too_long != "prompt-left":
            return self
        room, prompts = limit.most - self.sampling.max_new_tokens, []
        for prompt in self.prompts:
            asked = self._asked_tokens(lm, prompt)
            # What states the preference stands in the prompt too, and stays.
            beside = asked - len(lm.encode_prompt(prompt))
            shorter = cut_at_start(lm, prompt, room - beside) if asked > room else None
            limit.cut += shorter is not None
            prompts.append(shorter or prompt)
        limit.say_cut(len(prompts), f"prompts with {self.sampling.max_new_tokens} new tokens", say)
        return replace(self, prompts=tuple(prompts))

    def _asked_tokens(self, lm: LanguageModel, prompt: Prompt) -> int:
        """Return the tokens of a prompt as the policy reads it, at equal weights."""
        uniform = torch.full((len(self.objectives),), 1 / len(self.objectives))
        return len(lm.encode_prompt(self.asked(prompt, uniform)))

    def short_enough(self, lm: LanguageModel, limit: Limit) -> Reward:
        """Return the goal with the prompts that leave room for a response within ``limit``.

        Raises:
            TrainingError: There is none.
        """
        new = self.sampling.max_new_tokens
        kept = [prompt for prompt in self.prompts if self._asked_tokens(lm, prompt) <= limit.most - new]
        if not kept:
            raise TrainingError(
                f"none of {len(self.prompts)} prompts leaves room for {new} new tokens within {limit}; raise train.max_tokens, "
                "lower sampling.max_new_tokens, or give shorter prompts"
            )
        return replace(self, prompts=tuple(kept))

    def identity(self) -> list[Any]:
        """Return what decides the run, as JSON values."""
        settings = {name: value for name, value in as_values(self.settings).items() if name != "time_limit"}
        return [
            [[[message.role, message.content] for message in prompt] for prompt in self.prompts],
            [scorer.fingerprint for scorer in self.scorers],
            self.scale.to_dict(),
            self.sampling.max_new_tokens,
            settings,
            self.preference.as_dict() if self.preference else None,
            as_values(self.conditioning),
            self.prompting.to_dict() if self.prompting else None,
            list(self.ideal),
            *self._sampler(),
            *self._weighing(),
        ]

    def _weighing(self) -> list[Any]:
        """Return what decides the weights of objectives and leaves responses out, where something does."""
        found: list[Any] = [["consensus", self.consensus]] if self.settings.aggregation == "gd2po" else []
        found += [["guard", asdict(self.guard)]] if self.settings.aggregation == "guarded" else []
        found += [["worst", *self.worst]] if self.worst else []
        return found + (
            [["floors", dict(self.floors.floors), self.floors.rate]] if self.floors.floors else []
        )

    def _sampler(self) -> list[Any]:
        """Return who samples, where that is a server: its address may change."""
        return [["endpoint", s.model, s.load_every, s.ratio_cap]] if (s := self.server) else []

    def content(self) -> list[Any] | None:
        """Return what a run for one objective alone reads of :meth:`identity`, as JSON values; None for another run.

        The other objectives have weight 0 in a linear reward. Mean and deviation are rounded, as their last digits depend on the
        number of objectives that are measured together.
        """
        one = self.preference is not None and max(self.preference.weights) == 1
        if self.preference is None or not one or self.conditioning.aggregation != "linear" or self.prompting:
            return None
        if self.adaptive or self.settings.aggregation == "gd2po":  # these read all rewards
            return None
        m = self.preference.weights.index(1)
        prompts, scorers, _, length, settings, _, conditioning, *_ = self.identity()
        scale = [f"{float(values[m]):.12g}" for values in (self.scale.mean, self.scale.std)]
        known = ["on-policy", prompts, scorers[m], scale, length, settings, self.objectives[m], conditioning]
        return known + self._sampler()

    def facts(self) -> dict[str, Any]:
        """Return what is stored with the adapter."""
        facts: dict[str, Any] = {"objectives": list(self.objectives), "reward_scale": self.scale.to_dict()}
        if self.preference is not None:
            facts["preference"] = self.preference.as_dict()
        else:
            facts["conditioning"] = as_values(self.conditioning)
        if self.prompting is not None:
            facts["prompting"] = self.prompting.to_dict()
        return facts | as_values(self.settings)
