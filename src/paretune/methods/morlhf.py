"""MORLHF: reinforcement learning on the weighted sum of several rewards, from the policy's own samples.

    for t = 1..T:
        draw prompts x, and for each a preference w (or the one w of this run)
        sample K responses y to each from pi_theta(. | x, w)                                       (here, or by a server)
        R(y) = sum_i w_i (r_i(x, y) - mean_i) / std_i - beta log(pi_theta(y) / pi_ref(y))
        step on the policy gradient with R(y) less the mean R of the other responses to x            (RLOO)

The optimum is pi_ref(y|x) exp(w.r / beta) / Z, which MODPO (arXiv 2310.03708) claims to reach without sampling. Rewards are
put on one scale by constants measured once on the data's responses.

A server that ``endpoint.stages`` names the method for loads the adapter of every step as a LoRA and samples from it; see
:mod:`paretune.training.rl.served` for the weights that correct for what it samples otherwise.

``form: anchors`` is a run for each preference. ``form: conditioned`` is one run for all, with w drawn for each prompt: in the
gates (Panacea's RLHF form, arXiv 2402.02030; also Tchebycheff) or, ours, in the prompt as Rewards-in-Context writes it.

GDPO (arXiv 2601.05242) normalises each reward within its group before the sum. That has another optimum, so it has a name of its
own in the list of methods. GD2PO (arXiv 2606.16771) and DVAO (arXiv 2605.25604) are aggregations of it: what the rewards of a group
disagree on is left out, or the deviations of the group become weights.

``floors`` hold the means of some objectives (MOPO, arXiv 2505.10892): w maximises the others, and each floor has a multiplier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from paretune.core.bounds import Positive, Share
from paretune.core.errors import ConfigError, suggest
from paretune.core.preference import Preference
from paretune.core.settings import flat, later
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.policies.prompts import Prompting
from paretune.training.conditioning import LORA_PER_OBJECTIVE, Conditioning, mean_backward_passes
from paretune.training.loop import Training
from paretune.training.rl.anchors import OF_GDPO, family, fit_anchor, fit_reward, measured_reward
from paretune.training.rl.goal import RLSettings
from paretune.training.rl.weighing import Floors, Guard


@dataclass(frozen=True)
class MORLHFConfig(RLSettings):
    """The settings of MORLHF, beside those of :class:`paretune.training.rl.goal.RLSettings`.

    ``train.batch_pairs`` counts prompts: a step samples ``batch_pairs * accumulate * responses`` responses, decoded together.

    Attributes:
        form: Form of the policy. ``anchors``: a run for each preference; ``conditioned``: one run, with preferences drawn.
        condition: Entry of the preference into a conditioned run: the ``gates``, or the ``prompt`` as tags such as
            ``<warm: 7/10>``; the reference reads the prompt without them.
        conditioning: Rules that draw preferences, set gates by them, and combine M rewards; these settings stand beside the
            others, and ``aggregation`` is called ``scalarisation``. A form that is not linear needs ``estimator: rloo``, and
            ``per: batch`` in a conditioned run. ``ideal`` is a reward in deviations that no objective exceeds; by default each
            objective's best among the data's responses.
        between: What answers at a preference without an adapter, with ``anchors``: the ``nearest`` one, or a ``soup`` of those
            around it, which is marked as interpolated.
        consensus: Agreement that ``aggregation: gd2po`` asks of the objectives on a response: 1 leaves out every response on which
            two differ in sign, 0 none; the released code has 0.2 beside it.
        guard_target: Correlation of a reward with the advantage below which ``aggregation: guarded`` raises its weight.
        guard_rate: Rise of a log weight per unit of missing correlation, at each rollout.
        guard_memory: Share of the newest rollout in the running mean of the correlations.
        floors: Objective -> smallest mean score that training holds, in the units of its scores; with ``form: anchors``.
        floor_rate: Rise of the multiplier of a floor per deviation by which it is missed, at each rollout.
    """

    form: Literal["anchors", "conditioned"] = "anchors"
    condition: Literal["gates", "prompt"] = "gates"
    conditioning: Conditioning = flat(
        LORA_PER_OBJECTIVE,
        rename={"aggregation": "scalarisation"},
        without=("hidden", "orthogonality", "loss", "clip", "nll", "anchor", "contrast", "strengths"),
        later=("own_scales", "quantile", "worst", "gradients", "correction"),
    )
    between: BetweenAnchors = later("nearest")
    consensus: Share = later(1.0)
    guard_target: Share = later(0.1)
    guard_rate: Positive = later(0.05)
    guard_memory: Share = later(0.1)
    floors: dict[str, float] | None = later(None)
    floor_rate: Positive = later(0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_floors()
        self.check(self.conditioning)
        if self.form == "conditioned" and self.between == "soup":
            raise ConfigError(
                "between: soup is of anchors, and form: conditioned has one adapter for all preferences; leave it out"
            )
        if self.form == "conditioned":  # anchors have one preference throughout
            self.conditioning.check_means()

    @property
    def weighing(self) -> dict[str, Any]:
        """What adapts the weights of objectives and leaves responses out, as fields of a reward; those that are in use."""
        found: dict[str, Any] = {"consensus": self.consensus} if self.aggregation == "gd2po" else {}
        if self.aggregation == "guarded":
            found["guard"] = Guard(self.guard_rate, self.guard_target, self.guard_memory)
        return found | ({"floors": Floors(self.floors, self.floor_rate)} if self.floors else {})

    def _check_floors(self) -> None:
        if not self.floors:
            return
        if self.form == "conditioned":
            raise ConfigError(
                "floors with form: conditioned: a floor holds at one preference, and this run has one adapter for all; use form: "
                "anchors"
            )
        if self.aggregation != "sum" or self.estimator == "dpo":
            raise ConfigError(
                f"floors with aggregation: {self.aggregation} and estimator: {self.estimator}: a multiplier weighs rewards on one "
                "scale; use method: morlhf with aggregation: sum and estimator: rloo or grpo"
            )

    @property
    def name(self) -> str:
        """The method under these settings; it begins the names of adapters."""
        return family(self)

    @property
    def drawn(self) -> Conditioning:
        """How preferences are drawn: an anchor has one throughout, so a batch is at one preference."""
        return replace(self.conditioning, per="batch") if self.form == "anchors" else self.conditioning

    @property
    def gated(self) -> bool:
        """Whether one adapter follows the preference in its gates."""
        return self.form == "conditioned" and self.condition == "gates"


def train(inputs: Inputs, config: MORLHFConfig) -> Policy:
    """Return the policy with one adapter per preference, or with the one adapter of a conditioned run.

    The training data are prompts to sample responses to; the responses that they hold fix the scale of the rewards.

    Raises:
        ConfigError: An objective without a scorer.
        ScoreError: The data's responses cannot be scored, or all score alike.
        BatchError: A reward function failed in training; what was trained so far is saved.
    """
    lab, objectives, name = inputs.lab, inputs.objectives, config.name
    scorers = inputs.scorers_of(objectives, name)
    reward, raw = measured_reward(
        lab, inputs.train, scorers, inputs.sampling, config, config.drawn, inputs.endpoint
    )
    reward = replace(reward, **config.weighing)
    if config.form == "anchors":
        adapters = [fit_anchor(lab, reward, preference) for preference in inputs.preferences]
        return Policy.anchors(name, lab.lm, objectives, adapters, inputs.preferences, config.between)
    if config.condition == "prompt":
        prompting = Prompting.of(objectives, raw, form="levels")
        adapter = fit_reward(lab, f"{name}-prompt", replace(reward, prompting=prompting))
        return Policy.prompted(name, lab.lm, objectives, adapter)
    return Policy.conditioned(name, lab.lm, objectives, fit_reward(lab, f"{name}-gates", reward))


def work(run: Work, name: str, config: MORLHFConfig, training: Training) -> list[Stage]:
    """Return the stage that samples, reads the answers by the base model, and trains."""
    if config.form == "anchors":
        beside = str(config.weighing or "")
        return run.anchors(
            name, "one per preference", config, config.drawn, training, run.preferences, beside
        )
    M = len(run.objectives)
    columns = config.conditioning.columns(M) if config.gated else training.rank
    asked, backwards = 0 if config.gated else run.asked_tokens(), mean_backward_passes(config.conditioning, M)
    what = "for all preferences"
    return [run.on_policy(name, what, config, training, columns, asked=asked, backwards=backwards)]


def traits(config: MORLHFConfig) -> Traits:
    """Return what the rest of the library must know of MORLHF."""
    if config.form == "anchors":
        return Traits("preference", separable=True, between=config.between)
    return Traits(
        "all",
        conditioning=config.conditioning if config.gated else None,
        prompted=not config.gated,
        refusal=OF_GATES if config.gated else "",
    )


def check(config: MORLHFConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Raise a ConfigError where a floor is on an objective that the run has not."""
    for name in config.floors or ():
        if name not in objectives:
            raise ConfigError(f"floors: unknown objective {name!r}; {suggest(name, list(objectives))}")


OF_GATES = (
    "with condition: gates every response has a preference of its own in the gates, which no LoRA server takes; use form: anchors "
    "or condition: prompt, or take the method out of endpoint.stages"
)


METHOD = Method(
    MORLHFConfig,
    train,
    work,
    Card(
        title="MORLHF",
        paper="linear scalarisation; RLOO arXiv 2402.14740, conditioned as in arXiv 2402.02030",
        needs="prompts with some responses, and a scorer for each objective",
        runs="N, or 1 conditioned",
        enters="gates: one adapter per preference, or one whose gates follow it; or the prompt",
        family="sampled",
    ),
    traits,
    choices={"aggregation": ("sum", "guarded")},
    staged=True,
    check=check,
)

GDPO = replace(
    METHOD,
    card=Card(
        title="GDPO",
        paper="arXiv 2601.05242",
        needs="prompts with some responses, and a scorer for each objective",
        runs="N, or 1 conditioned",
        enters="as in MORLHF; each reward is normalised within its group first",
        family="sampled",
    ),
    choices={"aggregation": OF_GDPO},
)
