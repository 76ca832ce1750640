"""SIPO: self-improvement towards Pareto optimality (arXiv 2502.14354).

Pairs on which objectives conflict pull apart what is trained on them. SIPO looks for a response y* that is better than
both, under every objective, and trains on that:

    1. align: for each objective i: pi_i by DPO on D_i; R_i = beta (log pi_i - log pi_ref)
    2. sample: for each conflicting (x, a, b) and each w in W: y_w from softmax( sum_i w_i log pi_i )
    3. refine: review y_w, rewrite it along the review at the same w; keep the rewrite or revert, by R
    4. filter: y* = the best of those with R_i(y) > R_i(a) and R_i(y) > R_i(b) for all i; no such y: the pair is left out
    5. pairs (y*, a) and (y*, b), the same for every objective
    6. fine-tune each pi_i from itself, the reference being pi_i before:   L = DPO + alpha * mean nats a token of y*
    7. repeat from 2 with the new pi_i (``rounds``), then serve them mixed at the user's w

What a prompt needs once is done once: its candidates serve all its pairs, and all its texts are one packed group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from paretune.core.bounds import Count, Natural, NotNegative, Positive
from paretune.core.errors import ConfigError, PreferenceError
from paretune.core.preference import Preference, preference_grid
from paretune.core.settings import later
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, Pair
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.methods.sipo.improve import conflicting_pairs, spread_pairs
from paretune.methods.sipo.revise import Templates
from paretune.methods.sipo.rounds import Round, Search, improve
from paretune.models.adapter import Adapter
from paretune.planning.lengths import Texts
from paretune.planning.work import Fits, Stage, Work, reading
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.preference_pairs import PairLoss
from paretune.training.token_tables import PairTable, tokenise

REVIEW_TOKENS = 120
"""Tokens of the texts that ask for a review or a rewrite, and of what a review adds."""
CONFLICTING = 0.5
"""Share of pairs on which objectives conflict, where labels are not known."""


@dataclass(frozen=True)
class SIPOConfig(Search):
    """Settings of SIPO, beside those of :class:`paretune.methods.sipo.rounds.Search`.

    Where the paper's text could not be read, defaults are those of its code unless the setting states otherwise.

    Attributes:
        beta: Strength of the KL penalty, in the alignment, in rewards and in fine-tuning.
        pairs: Which pairs of a prompt's responses the alignment uses; conflicts are looked for among all pairs.
        nll: Weight of imitating the chosen response in the alignment, as in ``dpo-soup``; 0 is DPO.
        weights: Preferences W at which responses are sampled. ``grid``: 0.2, 0.4, 0.6 and 0.8 for two objectives, the inner
            points of a simplex grid for more (our choice). ``run``: those of the run that give every objective a weight.
            Or a list such as ``["helpful=0.3,harmless=0.7"]``.
        conflicts: Largest number of conflicting pairs for which improved responses are looked for.
        greedy: Sample the most likely token; else by the run's temperature and top-p. Both use its ``max_new_tokens``.
        alpha: Weight of imitating y*, per mean nat per token.
        rate: Factor on ``train.learning_rate`` in fine-tuning (the code: 5e-6 after an alignment at 5e-4).
        steps: Optimiser steps of fine-tuning; 0 takes ``train.steps``.
        rounds: Number of rounds of self-improvement; rewards are always against the base model (our choice).
        serve: Way in which the policies are served: ``mod`` mixes next-token distributions, ``soup`` adds the weighted updates.
    """

    beta: Positive = 0.1
    pairs: Choose = "extremes"
    nll: NotNegative = later(0.0)
    weights: Literal["grid", "run"] | tuple[str, ...] = "grid"
    conflicts: Count = 2500
    greedy: bool = True
    alpha: NotNegative = 0.1
    rate: Positive = 0.01
    steps: Natural = 0
    rounds: Count = 1
    serve: Literal["mod", "soup"] = "mod"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weights:
            raise ConfigError("weights is empty; use grid, run, or list some preferences")


def train(inputs: Inputs, config: SIPOConfig) -> Policy:
    """Return the policy that mixes one self-improved adapter per objective.

    The endpoint draws the reviews, where the base model is the reviewer; samples and rewrites are mixtures and are drawn here.

    Raises:
        ConfigError: templates without a field, or no preference of the run to sample at.
        TrainingError: no pair to train on, rewards that are not finite, or no review with a suggestion.
    """
    Templates.load(config.templates)  # wrong ones are reported before training, not after it
    lab, objectives = inputs.lab, inputs.objectives
    weights = sampled_at(objectives, inputs.preferences, config)
    adapters = inputs.corners(DPOConfig(config.beta, config.pairs, config.nll))
    conflicts, decided = conflicting_pairs(inputs.train)
    if not conflicts:
        lab.say(
            f"sipo: the objectives conflict on none of the {decided} pairs that all of them label, so there is nothing to improve "
            "on; the policies stay as DPO made them"
        )
        return _served(lab, objectives, adapters, config)
    taken = spread_pairs(conflicts, config.conflicts, lab.training.seed)
    table, dropped = tokenise(lab.lm, taken, lab.training.max_tokens, lab.too_long, say=lab.leave_out)
    if dropped:
        lab.leave_out(
            f"sipo: {dropped} of {len(taken)} conflicting pairs are longer than train.max_tokens; left out"
        )
    sampling = replace(inputs.sampling, temperature=0.0, top_p=1.0) if config.greedy else inputs.sampling
    for number in range(1, config.rounds + 1):
        members = tuple(adapters)
        work = Round(
            lab, number, table, members, tuple(weights), sampling, config.beta, config, inputs.endpoint
        )
        counts = Counter(pairs=decided, conflicts=len(conflicts))
        improved, facts = improve(work, counts)
        if not improved:
            lab.say(
                f"sipo round {number}: no response is better than both of a conflicting pair under every objective; the policies "
                "of before stay. More pairs (conflicts), preferences (weights) or a temperature (greedy: false) give more tries"
            )
            break
        adapters = refit(work, improved, inputs.validation, config, facts)
    return _served(lab, objectives, adapters, config)


def _served(lab: Lab, objectives: Sequence[str], adapters: Sequence[Adapter], config: SIPOConfig) -> Policy:
    if config.serve == "soup":
        return Policy.soup("sipo", lab.lm, objectives, adapters)
    return Policy.mod("sipo", lab.lm, objectives, adapters)


def sampled_at(
    objectives: Sequence[str], preferences: Sequence[Preference], config: SIPOConfig
) -> list[Preference]:
    """Return W: the preferences at which responses are sampled, in the order that breaks ties.

    Raises:
        ConfigError: no preference of the run gives every objective a weight.
    """
    if config.weights == "grid":
        grid = preference_grid(objectives, max(5, len(objectives) + 1))[::-1]
    elif config.weights == "run":
        grid = [preference.over(objectives) for preference in preferences]
    else:
        return [Preference.parse(text, objectives) for text in config.weights]
    inner = [preference for preference in grid if min(preference.weights) > 0]
    if not inner:
        raise ConfigError(
            "weights: run, and no preference of the run gives every objective a weight; use grid, or list some"
        )
    return inner


def fine_tuning(training: Training, config: SIPOConfig) -> Training:
    """Return the settings of the alignment with the learning rate and the steps of fine-tuning."""
    steps = config.steps or training.steps
    return replace(training, learning_rate=config.rate * training.learning_rate, steps=steps)


def refit(
    work: Round,
    improved: Sequence[Pair],
    validation: ScoredDataset,
    config: SIPOConfig,
    facts: Mapping[str, Any],
) -> list[Adapter]:
    """Return each policy fine-tuned from itself on the pairs of y*; its own held-out pairs choose the best weights."""
    lab = work.lab

    def against(table: PairTable, adapter: Adapter) -> PairTable:
        return replace(table, reference=lab.logps(table, adapter))

    with lab.trained_by(fine_tuning(lab.training, config)):
        table = lab.train_table(improved)
        return [
            lab.fit_pairs(
                f"sipo-{work.number}-{objective}",
                against(table, adapter),
                against(lab.pair_table(lab.pairs(validation, objective, config.pairs), objective), adapter),
                PairLoss(config.beta, nll=config.alpha),
                {"method": "sipo", "objective": objective, **facts},
                adapter,
            )
            for objective, adapter in zip(work.objectives, work.adapters, strict=True)
        ]


def work(run: Work, name: str, config: SIPOConfig, training: Training) -> list[Stage]:
    """Return the alignment, and for each round the search for better responses and the fine-tuning on them."""
    stages = run.corners(config.beta, config.pairs, training, nll=config.nll)
    M, labelled = len(run.objectives), run.labelled("train")
    taken = min(config.conflicts, conflicts_of(run, labelled))
    improved = replace(run.rows["train"], count=2 * taken, responses=2.0, spread=labelled.spread)
    held_out = run.pair_texts("validation", run.objectives[0], config.pairs)
    tuning = fine_tuning(training, config)
    # The texts that are trained on were read by all models when improved responses were looked for; held-out pairs were not.
    references = [reading(held_out, training.rank) for _ in range(M)]
    for number in range(1, config.rounds + 1):
        stages.append(search(run, f"answers: {name}, {number}", config, training, taken))
        fits = Fits(tuning, improved, training.rank, M, held_out)
        stages.append(run.trained(f"train: {name}, {number}", "one per objective", fits, references))
    run.assumptions.append(
        "every conflicting pair of SIPO gets a response that improves on it (this decides what is trained on)"
    )
    return stages


def conflicts_of(run: Work, labelled: Texts) -> float:
    """Return how many pairs conflict: those of the data where all objectives are known, else a share of all pairs."""
    data = run.splits["train"]
    if set(run.objectives) <= set(data.objectives):
        return len(conflicting_pairs(data.select(list(run.objectives)))[0])
    run.assumptions.append(f"{CONFLICTING:.0%} of pairs conflict (SIPO trains on these)")
    return CONFLICTING * labelled.count


def search(run: Work, stage: str, config: SIPOConfig, training: Training, taken: float) -> Stage:
    """Return the stage that looks for better responses to ``taken`` conflicting pairs: samples, reviews, rewrites, rewards."""
    rows, M = run.rows["train"], len(run.objectives)
    prompts, columns = min(rows.count, taken), M * training.rank
    weights = len(sampled_at(run.objectives, run.preferences, config))
    spots, times = prompts * weights, 3 if config.refine else 1
    decodings = [
        run.decoding(spots, rows, columns, M, weights)
    ]  # all preferences share the reading of a prompt
    if config.refine:
        longer = run.answer + REVIEW_TOKENS
        asking: Texts = replace(rows, prompt=rows.prompt + longer, longest=rows.longest + longer)
        reviewers = M if config.reviewer == "mod" else 1
        decodings += [run.decoding(spots, asking, columns, copies) for copies in (reviewers, M)]
    pairs, candidates = 2 * taken / max(prompts, 1e-9), weights * (2 if config.refine else 1)
    group = replace(rows, count=prompts, responses=pairs + candidates)
    known = pairs * run.read_share("base", "train")  # the alignment has read them
    rewards = (
        reading(replace(group, responses=pairs - known + candidates), 0),
        *(reading(group, training.rank) for _ in range(M)),
    )
    what = f"up to {spots * times:.0f} answers, reviews and rewrites for {taken:.0f} conflicting pairs"
    return Stage(stage, what, rewards, tuple(decodings))


def traits(config: SIPOConfig) -> Traits:
    """Return what the rest of the library must know of SIPO."""
    refusal = ""
    if config.refine and config.reviewer != "base":
        refusal = (
            "the reviews come from a mixture of its policies, which no server mixes; set its reviewer to base, or take the method "
            "out of endpoint.stages"
        )
    return Traits(mixed=config.serve == "mod", beta=config.beta, refusal=refusal)


def check(config: SIPOConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Check the templates, and the preferences at which responses are sampled.

    Raises:
        ConfigError: Templates that cannot be read or lack a field, or no preference to sample at.
    """
    Templates.load(config.templates)
    try:
        sampled_at(objectives, preferences, config)
    except PreferenceError as error:
        raise ConfigError(f"weights: {error}") from error


METHOD = Method(
    SIPOConfig,
    train,
    work,
    Card(
        title="SIPO",
        paper="arXiv 2502.14354",
        needs="pairs labelled by all objectives",
        runs="M of the soup, and M more",
        enters="next-token distribution, as in MOD (or gates, as in a soup)",
        family="pairs",
    ),
    traits,
    staged=True,
    check=check,
)
