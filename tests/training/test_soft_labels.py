"""Labels as probabilities: worked numbers, and what they change in the tabular world, where the optimum is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from oracles.tabular import tilted, total_variation
from paretune.core.preference import Preference
from paretune.core.settings import as_values
from paretune.data.pairs import Pair
from paretune.data.rows import Message
from paretune.methods import modpo
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.dpo_lw import DPOLWConfig, soft_shares, vote
from paretune.methods.modpo import MODPOConfig, stamp
from paretune.models.language_model import LanguageModel
from paretune.training.lab import Lab
from paretune.training.losses import pair_loss
from paretune.training.soft_labels import deviation_within, imitating, label_odds, log_odds, soften
from paretune.training.token_tables import PairTable
from support.adapters import TRAINING, adapters_equal
from support.world import make_dataset

BETA = 0.5


def table_of(*rows: tuple[tuple[float, ...], tuple[float, ...]]) -> PairTable:
    """Return a table of pairs with these gaps and labels, and nothing to read."""
    words = tuple(
        Pair((Message("user", "q"),), "a", "b", "o", n, 0, 1, False, False, gaps, labels)
        for n, (gaps, labels) in enumerate(rows)
    )
    empty = tuple((n,) for n in range(len(rows)))
    zero, one = torch.zeros(len(rows)), torch.ones(len(rows))
    return PairTable(empty, empty, empty, words, torch.zeros(len(rows), 2), zero, one, one, zero)


def test_worked_numbers() -> None:
    """A gap of 3 at a deviation of 2 and soft 0.8 has log-odds 1.2; a mean vote of 0.6 has ln 4; all votes have no end."""
    nan = math.nan
    table = table_of(((3.0,), (1.0,)), ((nan,), (0.6,)), ((nan,), (0.0,)), ((nan,), (1.0,)))
    odds = log_odds(table, 0, 2.0, 0.8)
    assert odds.tolist() == pytest.approx([1.2, math.log(4), 0, math.inf])
    soft = soften(table.stamp(weight=0.5), odds)
    shares = [1 / (1 + math.exp(-1.2)), 0.8, 0.5, 1]
    assert soft.weight.tolist() == pytest.approx([share / 2 for share in shares])
    assert soft.reversed_weight.tolist() == pytest.approx([(1 - share) / 2 for share in shares])
    assert label_odds(soft).tolist() == pytest.approx(odds.tolist(), abs=1e-6)
    assert label_odds(table.stamp(weight=0.0)).tolist() == [0] * 4, "a pair without weight is undecided"
    assert log_odds(table, 0, nan, 0.8)[0] == math.inf, "without a deviation the label itself counts"


def test_a_deviation_is_one_among_the_responses_to_a_prompt() -> None:
    """Scores 1 3 and 10 16 lie 2 and 18 in squares from their means, with one degree of freedom each."""
    row = make_dataset(1, responses=2).rows[0]
    scores = (1.0, 3.0), (10.0, 16.0), (5.0, math.nan)
    rows = tuple(replace(row, scores={"good": values}) for values in scores)
    data = replace(make_dataset(1), rows=rows)
    assert deviation_within(data, "good") == pytest.approx(math.sqrt(20 / 2))
    alike = replace(data, rows=(replace(row, scores={"good": (2.0, 2.0)}),))
    assert math.isnan(deviation_within(alike, "good")) and math.isnan(deviation_within(data, "short"))


def test_what_is_imitated_follows_all_objectives_together() -> None:
    table = soften(table_of(((1.0,), (1.0,))), torch.tensor([math.log(4)]))
    assert table.votes.tolist() == [pytest.approx([0.8, 0.2])], "by default as the labels say"
    against = imitating(table, torch.tensor([-math.log(9)]))
    assert against.votes.tolist() == [pytest.approx([0.1, 0.9])]
    assert (against.content, against.fingerprint) != (table.content, table.fingerprint)


def fitted(soft: float, steps: int) -> tuple[float, float, torch.Tensor, torch.Tensor]:
    """Train MODPO at equal weights on the pairs of one of two objectives that score every answer, and return how far it is from the
    optimum of their sum and from that of the one alone, in total variation, and the tables.

    4 prompts, 6 answers; every pair is labelled by the scores themselves, so without ``soft`` a label is certain.
    """
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(4, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    scores = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    first, second = torch.combinations(torch.arange(6)).unbind(1)
    gaps = (scores[..., first] - scores[..., second]).flatten(1)
    chosen = gaps[0] > 0
    sign = torch.where(chosen, 1.0, -1.0)
    table = table_of(*(((g,), (1.0,)) for g in (sign * gaps[0]).tolist()))
    if soft:
        table = soften(table, log_odds(table, 0, 1.0, soft))
    stamped = stamp(table, 0.5 * (soft or 1.0) * sign * gaps[1], 0.5, False)
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=steps, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        ratios = logits.log_softmax(-1) - reference
        gap = sign * (ratios[:, first] - ratios[:, second]).flatten()
        columns = {
            name: getattr(stamped, name).double() for name in ("margin", "scale", "weight", "reversed_weight")
        }
        value = pair_loss(gap, BETA, **columns).mean()
        value.backward()
        return value

    optimizer.step(closure)
    policy = logits.detach().log_softmax(-1)
    both = tilted(reference, (soft or 1.0) * (scores[0] + scores[1]) / 2, BETA)
    return (
        total_variation(policy, both),
        total_variation(policy, tilted(reference, 100 * scores[0], BETA)),
        policy,
        both,
    )


def test_modpo_reaches_the_sum_of_the_scores_where_labels_are_as_sure_as_the_scores() -> None:
    """On certain labels there is no optimum: the longer it trains, the nearer is what the one objective likes best."""
    assert fitted(1.0, 2000)[0] < 1e-4
    assert fitted(2.0, 2000)[0] < 1e-4, "and at another worth of a score, the same in its units"
    short, long = fitted(0.0, 5), fitted(0.0, 2000)
    assert long[1] < short[1] and long[1] < 0.02 < long[0], "the margin of the other objective is forgotten"


def test_loss_weighting_takes_the_mean_of_probabilities() -> None:
    """0.6 of sigmoid(1) and 0.4 of sigmoid(-2); a pair that the second does not label has the first alone, at its own share."""
    nan = math.nan
    table = table_of(((1.0, -2.0), (1.0, -1.0)), ((1.0, nan), (1.0, nan)))
    w = Preference.parse("a=0.6,b=0.4")
    stamped = vote(table, w, soft_shares(table, [1.0, 1.0], 1.0))
    s = torch.sigmoid(torch.tensor([1.0, -2.0])).tolist()
    assert stamped.weight.tolist() == pytest.approx([0.6 * s[0] + 0.4 * 2 * s[1], 0.6 * s[0]])
    assert stamped.reversed_weight.tolist() == pytest.approx(
        [0.6 * (1 - s[0]) + 0.4 * 2 * (1 - s[1]), 0.6 * (1 - s[0])]
    )


@pytest.mark.slow
def test_soft_reaches_every_stage_and_leaves_earlier_runs_alone(lm: LanguageModel, tmp_path: Path) -> None:
    assert "soft" not in as_values(DPOConfig()) and "soft" not in as_values(DPOLWConfig())
    lab, data = Lab(lm, tmp_path, TRAINING), (make_dataset(), make_dataset(4, seed=9))
    inputs = Inputs(lab, *data, [Preference.parse("short=0.6,good=0.4")])
    config = MODPOConfig(soft=1.0, nll=0.5)
    (adapter,) = modpo.train(inputs, config).adapters
    table, held_out = inputs.tables("short", config)
    assert bool(((table.weight > 0.5) & (table.weight < 1)).all()) and torch.allclose(
        table.weight + table.reversed_weight, torch.ones(len(table))
    )
    margin_model = lab.dpo("good", *data, 0.1, nll=0.5, soft=1.0)

    def by_hand(part: PairTable) -> PairTable:
        margin = 0.4 * lab.implicit_gap(part, margin_model, 0.1)
        odds = 0.6 * torch.logit(part.weight.double()) + margin
        return imitating(part, odds).stamp(margin=margin, scale=1 / 0.6)

    parts = by_hand(table), by_hand(held_out)
    expected = lab.fit_pairs("by-hand", *parts, replace(config.loss), {"method": "modpo"})
    assert adapters_equal(expected, adapter)
    plain = modpo.train(inputs, MODPOConfig(nll=0.5))
    assert not adapters_equal(plain.adapters[0], adapter)
