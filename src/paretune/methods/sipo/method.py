"""SIPO: self-improvement towards Pareto optimality (arXiv 2502.14354).

Pairs on which objectives conflict pull apart what is trained on them. SIPO looks for a response y* that is better than
both, under every objective, and trains on that:

    1. align: for each objective i: pi_i by DPO on D_i; R_i = beta (log pi_i - log pi_ref)
    2. sample: for each conflicting (x, a, b) and each w in W: y_w from softmax( sum_i w_i log pi_i )
    3. refine: review y_w, rewrite it along the review at the same w; keep the rewrite or revert, by R
    4. filter: y* = the best of those with R_i(y) > R_i(a) and R_i(y) > R_i(b) for all i; no such y: the pair is left out
    5. pairs (y*, a) and (y*, b), the same for every objective
    6. fine-tune each pi_i from itself, the reference being pi_i before:   L = DPO + alpha * mean nats a token of y*
    7. go on from 2 with the new pi_i (``rounds``), then serve them mixed at the user's w

What a prompt needs once is done once: its candidates serve all its pairs, and all its texts are one packed group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, Pair, pairs
from paretune.generation.endpoint import Endpoint
from paretune.methods.sipo.improve import conflicting_pairs, spread_pairs
from paretune.methods.sipo.revise import Templates
from paretune.methods.sipo.rounds import Round, Search, improve
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.token_tables import PairTable, tokenise


@dataclass(frozen=True)
class SIPOConfig(Search):
    """Settings of SIPO, beside those of :class:`paretune.methods.sipo.rounds.Search`.

    Where the paper's text could not be read, defaults are those of its code, or say otherwise.

    Attributes:
        beta: strength of the KL penalty, in the alignment, in rewards and in fine-tuning.
        pairs: which pairs of a prompt's responses the alignment uses; conflicts are looked for among all.
        weights: preferences W at which responses are sampled. ``grid``: 0.2, 0.4, 0.6 and 0.8 for two objectives, the inner
            points of a simplex grid for more (our choice). ``run``: those of the run that give every objective a weight.
            Or a list such as ``["helpful=0.3,harmless=0.7"]``.
        conflicts: conflicting pairs for which improved responses are looked for, at most.
        greedy: sample the most likely token; else by the run's temperature and top-p. Both use its ``max_new_tokens``.
        alpha: weight of imitating y*, per mean nat a token.
        rate: factor on ``train.learning_rate`` in fine-tuning (the code: 5e-6 after an alignment at 5e-4).
        steps: optimiser steps of fine-tuning; 0 takes ``train.steps``.
        rounds: of self-improvement; rewards are always against the base model (our choice).
        serve: ``mod`` mixes next-token distributions, ``soup`` adds the weighted updates.
    """

    beta: float = 0.1
    pairs: Choose = "extremes"
    weights: Literal["grid", "run"] | tuple[str, ...] = "grid"
    conflicts: int = 2500
    greedy: bool = True
    alpha: float = 0.1
    rate: float = 0.01
    steps: int = 0
    rounds: int = 1
    serve: Literal["mod", "soup"] = "mod"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weights:
            raise ConfigError("weights is empty; use grid, run, or list some preferences")
        for name in ("beta", "rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        for name, least in (("conflicts", 1), ("rounds", 1), ("alpha", 0), ("steps", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")


def sipo(
    lab: Lab,
    train: ScoredDataset,
    validation: ScoredDataset,
    preferences: Sequence[Preference],
    sampling: Sampling,
    config: SIPOConfig,
    endpoint: Endpoint | None = None,
) -> Policy:
    """Return the policy that mixes one self-improved adapter an objective.

    ``endpoint`` draws the reviews, where the base model is the reviewer; None draws them here. Samples and rewrites are mixtures.

    Raises:
        ConfigError: templates without a field, or no preference of the run to sample at.
        TrainingError: no pair to train on, rewards that are not finite, or no review with a suggestion.
    """
    Templates.load(config.templates)  # wrong ones are said before training, not after it
    objectives, weights = train.objectives, sampled_at(train.objectives, preferences, config)
    adapters = [lab.dpo(name, train, validation, config.beta, config.pairs) for name in objectives]
    conflicts, decided = conflicting_pairs(train)
    if not conflicts:
        lab.say(
            f"sipo: the objectives conflict on none of the {decided} pairs that all of them label, so there is nothing to improve "
            "on; the policies stay as DPO made them"
        )
        return _served(lab, objectives, adapters, config)
    taken = spread_pairs(conflicts, config.conflicts, lab.training.seed)
    table, dropped = tokenise(lab.lm, taken, lab.training.max_tokens)
    if dropped:
        lab.say(
            f"sipo: {dropped} of {len(taken)} conflicting pairs are longer than train.max_tokens; left out"
        )
    if config.greedy:
        sampling = replace(sampling, temperature=0.0, top_p=1.0)
    for number in range(1, config.rounds + 1):
        members, asked = tuple(adapters), tuple(weights)
        work = Round(lab, number, table, members, asked, sampling, config.beta, config, endpoint)
        counts = Counter(pairs=decided, conflicts=len(conflicts))
        found, facts = improve(work, counts)
        if not found:
            lab.say(
                f"sipo round {number}: no response is better than both of a conflicting pair under every objective; the policies "
                "of before stay. More pairs (conflicts), preferences (weights) or a temperature (greedy: false) give more tries"
            )
            break
        adapters = refit(work, found, validation, config, facts)
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
    found = [preference for preference in grid if min(preference.weights) > 0]
    if not found:
        raise ConfigError(
            "methods.sipo.weights: run, and no preference of the run gives every objective a weight; use grid, or list some"
        )
    return found


def refit(
    work: Round,
    found: Sequence[Pair],
    validation: ScoredDataset,
    config: SIPOConfig,
    facts: Mapping[str, Any],
) -> list[Adapter]:
    """Return each policy fine-tuned from itself on the pairs of y*; its own held-out pairs choose the best weights."""
    lab = work.lab

    def own(table: PairTable, adapter: Adapter) -> PairTable:
        return replace(table, reference=lab.logps(table, adapter))

    training = replace(
        lab.training,
        learning_rate=config.rate * lab.training.learning_rate,
        steps=config.steps or lab.training.steps,
    )
    with lab.trained_by(training):
        table = lab.train_table(found)
        return [
            lab.fit(
                f"sipo-{work.number}-{objective}",
                own(table, adapter),
                own(lab.pair_table(pairs(validation, objective, config.pairs)), adapter),
                config.beta,
                info={"method": "sipo", "objective": objective, **facts},
                start=adapter,
                nll=config.alpha,
            )
            for objective, adapter in zip(work.objectives, work.adapters, strict=True)
        ]
