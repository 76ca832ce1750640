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
own in the list of methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from paretune.core.errors import ConfigError
from paretune.core.settings import flat, later
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.policies.prompts import Prompting
from paretune.training.conditioning import LORA_PER_OBJECTIVE, Conditioning
from paretune.training.loop import Training
from paretune.training.rl.anchors import family, fit_anchor, fit_reward, measured_reward
from paretune.training.rl.goal import RLSettings


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
    """

    form: Literal["anchors", "conditioned"] = "anchors"
    condition: Literal["gates", "prompt"] = "gates"
    conditioning: Conditioning = flat(
        LORA_PER_OBJECTIVE,
        rename={"aggregation": "scalarisation"},
        without=("hidden", "orthogonality", "loss", "clip", "anchor", "contrast"),
        later=("own_scales", "quantile", "worst"),
    )
    between: BetweenAnchors = later("nearest")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator == "grpo" and self.conditioning.aggregation != "linear":
            raise ConfigError(f"scalarisation: {self.conditioning.aggregation} needs estimator: rloo")
        if self.form == "conditioned" and self.between == "soup":
            raise ConfigError(
                "between: soup is of anchors, and form: conditioned has one adapter for all preferences; leave it out"
            )
        if self.form == "conditioned":  # anchors have one preference throughout
            self.conditioning.check_means()

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
        return run.anchors(name, "one per preference", config, config.drawn, training, run.preferences)
    columns = config.conditioning.columns(len(run.objectives)) if config.gated else training.rank
    return [run.on_policy(name, "for all preferences", config, training, columns)]


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
    fixed={"aggregation": "sum"},
    staged=True,
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
    fixed={"aggregation": "decoupled"},
)
