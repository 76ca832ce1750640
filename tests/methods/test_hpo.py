"""HPO: advantages by worked numbers, the optimum of the likelihood in a table, the loss against separate forwards, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oracles.tabular import tilted, total_variation
from paretune.core.errors import ConfigError, TrainingError
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.methods import hpo
from paretune.methods.base import Inputs
from paretune.methods.hpo import HPOConfig, demonstrations, factors, scored
from paretune.models.language_model import LanguageModel
from paretune.scoring.scorer import build_scorer
from paretune.scoring.standardise import Standardisation
from paretune.training.hybrid import HybridData, HybridTask, WeightedResponses, fit_hybrid
from paretune.training.lab import Lab
from paretune.training.learner import one_adapter
from paretune.training.loop import TrainingRun
from paretune.training.losses import log_ratio_gap, pair_loss
from paretune.training.preference_pairs import PairLoss
from support.adapters import TRAINING
from support.offset_world import offset_data, offset_scorers
from support.world import make_dataset

NAMES = ("short", "good")


def data(*scores: tuple[float, ...]) -> ScoredDataset:
    rows = [
        Row(
            (Message("user", f"sun {'moon ' * n}"),),
            tuple(f"red{' blue' * k}" for k in range(len(values))),
            {"good": values},
            {},
            (False,) * len(values),
            f"made:{n}",
        )
        for n, values in enumerate(scores)
    ]
    return ScoredDataset(("good",), tuple(rows))


def test_worked_weights_of_responses() -> None:
    """Scores 1, 3 and 5 have mean 3 and deviation 1.633; the lone 5 has no partner, so its V is the mean of all."""
    part = data((1.0, 3.0), (5.0,))
    scale = Standardisation.of(part)
    found = factors(part, ["good"], scale, HPOConfig(alpha=2.0))
    unit = float(scale.std[0])
    assert found[:, 0].tolist() == pytest.approx(np.exp([-1 / unit / 2, 1 / unit / 2, 2 / unit / 2]).tolist())
    cut = factors(part, ["good"], scale, HPOConfig(alpha=0.001, most=7.0))
    assert cut[:, 0].tolist() == [pytest.approx(0, abs=1e-9), 7.0, 7.0], "no overflow, and no more than most"


def test_equal_scores_of_a_prompt_are_imitated_alike() -> None:
    part = data((2.0, 2.0), (0.0, 4.0))
    found = factors(part, ["good"], Standardisation.of(part), HPOConfig())
    assert found[:2, 0].tolist() == [1.0, 1.0] and found[2, 0] * found[3, 0] == pytest.approx(1.0)


def test_an_offset_of_the_prompt_is_no_advantage(
    lm: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores that can be compared within a prompt only: one response has no advantage, and offsets widen no deviation."""
    part, moved = data((1.0, 3.0), (5.0,)), data((1.0, 3.0), (500.0,))
    found = [
        factors(each, ["good"], Standardisation.of(each, ("good",)), HPOConfig(), ("good",))
        for each in (part, moved)
    ]
    np.testing.assert_allclose(*found, rtol=1e-12)
    unit = np.sqrt(2)  # squares 1 and 1 over the one response beyond the first
    assert found[0][:, 0].tolist() == pytest.approx([np.exp(-1 / unit), np.exp(1 / unit), 1.0])

    rows, offsets = offset_data(5.0, prompts=6, responses=2)
    first = rows.rows[0]
    scores = {name: values[:1] for name, values in first.scores.items()}
    lonely = replace(first, responses=first.responses[:1], truncated=(False,), scores=scores)
    mixed = replace(rows, rows=(lonely, *rows.rows[1:]))
    asked, config = (
        [Preference.of({"short": 0.5, "helpful": 0.5}, mixed.objectives)],
        HPOConfig(objective="short"),
    )
    said = "scores of helpful cannot be compared across prompts; 1 rows have one response"
    for across in (False, True):
        inputs = Inputs(
            Lab(lm, tmp_path / str(across), TRAINING), mixed, rows, asked, offset_scorers(offsets, across)
        )
        hpo.train(inputs, config)
        assert (said in " ".join(capsys.readouterr().err.split())) != across


def test_the_likelihood_alone_has_the_optimum_of_the_tilted_data() -> None:
    """In a table of one prompt, with exact expectations over mu: argmin E[exp(A / alpha) (-log pi)] = mu exp(A / alpha)."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(1, 8, generator=generator, dtype=torch.float64).log_softmax(-1)
    scores = torch.randn(8, generator=generator, dtype=torch.float64)
    part, config = data(tuple(scores.tolist())), HPOConfig(alpha=0.7, most=1e6)
    scale = Standardisation.of(part)
    weights = torch.from_numpy(factors(part, ["good"], scale, config)[:, 0])
    logits = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=2000, tolerance_grad=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = -(mu.exp() * weights * logits.log_softmax(-1)).sum()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    advantage = ((scores - scores.mean()) / float(scale.std[0]))[None]
    assert total_variation(logits.detach().log_softmax(-1), tilted(mu, advantage, config.alpha)) < 1e-6


# The training


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=3, learning_rate=1e-2))


def hybrid_data(lab: Lab, weight: float = 1.0, pairs: bool = True) -> HybridData:
    rows = make_dataset(4)
    items = demonstrations(rows)
    weights = torch.linspace(0.5, 2.0, len(items)) * weight
    table = lab.pair_table(lab.pairs(rows, "good", "extremes"), "good").stamp(weight=0.25)
    return HybridData(table if pairs else None, WeightedResponses.of(lab, items, weights))


def task(lab: Lab, made: HybridData, tmp: object) -> HybridTask:
    settings = lab.training.settled(False)
    run = TrainingRun(lab.lm, settings, lab.accelerator, tmp, "trial", "key", None, {})  # type: ignore[arg-type]
    return HybridTask(run, one_adapter(run), made, made, PairLoss(0.5))


def test_the_one_forward_computes_both_losses(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Against separate passes: a fresh adapter is the base model, so a pair's loss is log 2 times its weight."""
    made = hybrid_data(lab)
    trial = task(lab, made, tmp_path / "x")
    rows = [[0, 2], [1, 5, 6]]
    try:
        with trial.learner.steering.at(trial.gate):  # type: ignore[attr-defined]
            pairs, responses, tokens = trial.losses(made, rows)
    finally:
        trial.learner.steering.detach()  # type: ignore[attr-defined]
    base = torch.cat(lab.response_logps([made.responses.groups([n])[0] for n in rows[1]]))
    assert pairs.tolist() == pytest.approx([0.25 * np.log(2)] * 2, rel=1e-4)
    lengths = torch.tensor([len(made.responses.responses[n]) for n in rows[1]])
    torch.testing.assert_close(
        responses.detach().cpu(), made.responses.weights[rows[1]] * -base / lengths, rtol=1e-4, atol=1e-5
    )
    assert tokens == sum(len(p) + sum(map(len, r)) for p, r in made.groups(rows))


def test_responses_without_weight_leave_dpo(lab: Lab) -> None:
    """The adapter is then that of the pairs alone, up to the rounding of another packing."""
    made = hybrid_data(lab, weight=0.0)
    ours = fit_hybrid(lab, "hybrid", made, made, PairLoss(0.5), {})
    theirs = lab.fit("pairs", made.pairs, made.pairs, 0.5)  # type: ignore[arg-type]
    gaps = [
        log_ratio_gap(lab.logps(made.pairs, adapter), made.pairs.reference)  # type: ignore[arg-type, union-attr]
        for adapter in (ours, theirs)
    ]
    torch.testing.assert_close(gaps[0], gaps[1], rtol=1e-2, atol=1e-3)
    assert float(pair_loss(gaps[0], 0.5).mean()) < np.log(2)


def test_weighted_responses_alone_become_likelier(lab: Lab) -> None:
    made = hybrid_data(lab, pairs=False)
    adapter = fit_hybrid(lab, "alone", made, made, PairLoss(0.5), {})
    groups = made.responses.groups(range(len(made.responses)))
    before, after = (torch.cat(lab.response_logps(groups, model)) for model in (None, adapter))
    assert float((after - before).mean()) > 0


def test_every_preference_has_its_terms(lab: Lab) -> None:
    """All weight on k is the soup's adapter; without weight on k there are no pairs; responses without a partner count."""
    rows = make_dataset(8)
    lone = [
        replace(
            row,
            responses=row.responses[:1],
            truncated=(False,),
            scores={n: s[:1] for n, s in row.scores.items()},
        )
        for row in rows.rows[:3]
    ]
    train = replace(rows, rows=(*lone, *rows.rows[3:]))
    asked = [Preference.one_hot("short", NAMES), Preference.uniform(NAMES), Preference.one_hot("good", NAMES)]
    policy = hpo.train(Inputs(lab, train, make_dataset(4, seed=9), asked), HPOConfig())
    first, middle, last = (adapter.info for adapter in policy.adapters)
    assert first["method"] == "dpo" and first["objective"] == "short"
    assert middle["pairs"] == 5 and last["pairs"] == 0 and middle["responses"] == last["responses"] == 3 + 15


# What is refused


def test_what_would_not_do_is_refused(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="objective: unknown 'god'; did you mean 'good'"):
        hpo.check(HPOConfig(objective="god"), NAMES, [])
    for settings, words in (
        ({"gamma": 0}, "gamma must be above 0"),
        ({"alpha": -1}, "alpha must be above 0"),
        ({"most": 0.5}, "most must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            HPOConfig(**settings)  # type: ignore[arg-type]
    bare = make_dataset(4)
    bare = replace(bare, rows=tuple(replace(row, scores={"short": row.scores["short"]}) for row in bare.rows))
    with pytest.raises(ConfigError, match="no scorer for the objective 'good'; add one under score:"):
        scored(Inputs(lab, bare, bare), bare, ["good"])
    counted = [build_scorer({"objective": "good", "rule": "regex", "pattern": "good", "how": "count"})]
    filled = scored(Inputs(lab, bare, bare, scorers=counted), bare, ["good"])
    assert all(len(row.scores["good"]) == len(row.responses) for row in filled.rows)


def test_responses_that_are_all_too_long_are_refused(lab: Lab) -> None:
    with (
        lab.trained_by(replace(lab.training, max_tokens=2)),
        pytest.raises(TrainingError, match="none of 12 responses has at most 2"),
    ):
        WeightedResponses.of(lab, demonstrations(make_dataset(4)), torch.ones(12))


def test_a_loss_that_is_not_finite_names_its_rows(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = hybrid_data(lab)
    wrong = replace(
        made, responses=replace(made.responses, weights=torch.full((len(made.responses),), torch.inf))
    )
    trial = task(lab, wrong, tmp_path / "x")
    try:
        with (
            pytest.raises(TrainingError, match=r"the loss is not finite at step 1, on row .*\(response"),
            trial.batch(0, 0, {}),
        ):
            pass
    finally:
        trial.learner.steering.detach()  # type: ignore[attr-defined]
