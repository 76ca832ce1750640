"""KnowPAT: list-wise preference alignment, every objective ranking the same responses.

Zhang et al. 2023 (arXiv 2311.06503). Each prompt has n responses, which objective j ranks: its list. With S_i the mean
log-probability of a token of response i:

    1. align_j = sum_i v_i ( log(1 + e^-S_i) + mean_{k below i} log(1 + e^S_k) ) / (n - 1),   v_i = (S_i - min S) / (max S - min S)
    2. L_j = -S_best(j) + lambda align_j
    3. for each preference w: L = sum_j w_j mean over j's lists of L_j

The paper pools its two sets of lists (style and knowledge). Here they stay objectives, which makes a front. ``form: plackett-luce``
has DPO's rewards in a list's likelihood instead: S_i = beta log(pi / pi_ref) of response i, align_j = -log of the probability that
the Plackett-Luce model draws the list from its top; with two responses that is DPO. A list costs one packed forward, in which its
prompt stands once, for all objectives together.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.core.bounds import NotNegative, Positive, check_bounds
from paretune.core.errors import TrainingError
from paretune.core.settings import later
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.cost import Passes
from paretune.planning.work import Fits, Stage, Work, reading
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.training.list_losses import Form
from paretune.training.lists import ListLoss, fit_lists, list_table, weighed
from paretune.training.loop import Training


@dataclass(frozen=True)
class KnowPATConfig:
    """The settings of KnowPAT.

    Attributes:
        form: Loss of a ranked list: ``knowpat``, the paper's, which reads no reference; or ``plackett-luce``, with DPO's rewards.
        beta: Strength of the KL penalty in the Plackett-Luce form; the other form has none.
        align: Weight lambda of the ranking loss. The released script has 0.01, at which the best response is imitated and hardly
            anything else happens.
        sft: Weight of imitating an objective's best response, per mean nat of a token; 1 as in the paper.
        adaptive: Whether KnowPAT's terms are weighed by v; false weighs all alike, so that wrongly ranked pairs count too.
        between: What answers at a preference without an adapter: the ``nearest`` one, or a ``soup`` of those around it, which is
            marked as interpolated.
    """

    form: Form = "knowpat"
    beta: Positive = 0.1
    align: Positive = 1.0
    sft: NotNegative = 1.0
    adaptive: bool = True
    between: BetweenAnchors = later("nearest")

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def loss(self) -> ListLoss:
        """The loss of a list."""
        return ListLoss(self.form, self.beta, self.align, self.sft, self.adaptive)


def train(inputs: Inputs, config: KnowPATConfig) -> Policy:
    """Return the policy with one adapter for each preference.

    Raises:
        TrainingError: No prompt has a ranked list, or an objective has weight and ranks none.
    """
    lab, referred = inputs.lab, config.form == "plackett-luce"
    table, held_out = (list_table(lab, part, referred) for part in (inputs.train, inputs.validation))
    counts = dict(zip(inputs.objectives, table.ranked.sum(0).tolist(), strict=True))
    for objective, count in counts.items():
        if not count and any(preference[objective] > 0 for preference in inputs.preferences):
            raise TrainingError(
                f"KnowPAT: {objective!r} ranks none of {len(table)} lists of the training data, and a preference gives it weight; "
                "add scores or comparisons for it, or leave it out of the objectives"
            )
    info = {"method": "knowpat", "ranked": counts}
    adapters = []
    for preference in inputs.preferences:
        w = preference.over(inputs.objectives)
        parts = [weighed(part, w.array()) for part in (table, held_out)]
        facts = info | {"preference": w.as_dict()}
        adapters.append(fit_lists(lab, f"knowpat-{preference}", parts[0], parts[1], config.loss, facts))
    return Policy.anchors("knowpat", lab.lm, inputs.objectives, adapters, inputs.preferences, config.between)


def work(run: Work, name: str, config: KnowPATConfig, training: Training) -> list[Stage]:
    """Return the stages that read the lists by the base model (Plackett-Luce), and train an adapter for each preference."""
    table, held_out = run.rows["train"], run.rows["validation"]
    read: list[Passes] = []
    if config.form == "plackett-luce":
        read = [reading(texts, 0) for texts in (table, held_out)]
    fits = Fits(training, table, training.rank, len(run.preferences), held_out)
    return [run.trained(f"train: {name}", "one per preference, on lists", fits, read)]


METHOD = Method(
    KnowPATConfig,
    train,
    work,
    Card(
        title="KnowPAT",
        paper="arXiv 2311.06503",
        needs="several responses to a prompt, with scores or comparisons for each objective",
        runs="N",
        enters="gates: one adapter per preference, the nearest is used",
        family="pairs",
    ),
    traits=lambda config: Traits(
        "preference",
        separable=True,
        beta=config.beta if config.form == "plackett-luce" else None,
        between=config.between,
    ),
)
