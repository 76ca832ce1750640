"""SPO: rounds and lambdas by worked numbers, the optimum of the sequence in the tabular world, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracles.tabular import tilted, total_variation
from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.methods import spo
from paretune.methods.base import Inputs
from paretune.methods.spo import SPOConfig, next_round, rounds
from paretune.models.language_model import LanguageModel
from paretune.training.lab import Lab
from paretune.training.losses import log_ratio_gap, pair_loss
from support.adapters import TRAINING
from support.world import make_dataset

BETA = 0.5
NAMES = ("a", "b", "c")


def test_rounds_and_lambdas_of_a_preference() -> None:
    first, second, third = rounds(Preference.parse("a=0.2,b=0.3,c=0.5"), NAMES)
    assert (first.objective, first.lambdas) == ("a", {})
    assert second.objective == "b" and second.lambdas == {"a": pytest.approx(2 / 3)}
    assert second.preference.as_dict() == pytest.approx({"a": 0.4, "b": 0.6, "c": 0.0})
    assert third.lambdas == {"a": pytest.approx(0.4), "b": pytest.approx(0.6)}
    assert [made.objective for made in rounds(Preference.parse("a=0.5,b=0,c=0.5"), ("c", "b", "a"))] == [
        "c",
        "a",
    ]
    assert [made.lambdas for made in rounds(Preference.one_hot("b", NAMES), NAMES)] == [{}]


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=3, learning_rate=1e-2))


def test_worked_margins_of_three_rounds(lab: Lab) -> None:
    """r_1 = b D log(pi_1/ref), r_2 = b D log(pi_2/pi_1) - l r_1; the margin of round 3 weighs both, its reference is pi_2."""
    table = lab.pair_table(lab.pairs(make_dataset(2), "good", "extremes"), "good")
    N = len(table)
    table = replace(table, reference=torch.zeros(N, 2), margin=torch.full((N,), 0.25))
    one = torch.tensor([[3.0, 1.0]]).expand(N, 2)
    two = torch.tensor([[4.0, -1.0]]).expand(N, 2)
    so_far = rounds(Preference.parse("a=0.25,b=0.25,c=0.5"), NAMES)  # lambdas: b {a: 1}, c {a: .5, b: .5}
    made = next_round(table, [one, two], so_far, BETA)
    # Gaps 2 and 3: r_a = .5 * 2 = 1; r_b = .5 * 3 - 1 * 1 = .5; margin = .5 * 1 + .5 * .5 + the data's .25 = 1.
    assert made.margin.tolist() == pytest.approx([1.0] * N) and torch.equal(made.reference, two)
    second = next_round(table, [one], so_far[:2], BETA)
    assert second.margin.tolist() == pytest.approx([1.25] * N) and torch.equal(second.reference, one)


def test_without_lambda_a_round_is_dpo_from_the_round_before(lab: Lab) -> None:
    table = lab.pair_table(lab.pairs(make_dataset(2), "good", "extremes"), "good")
    half = rounds(Preference.uniform(("a", "b")), ("a", "b"))
    none = [half[0], replace(half[1], lambdas={"a": 0.0})]
    before = torch.randn(len(table), 2, generator=torch.Generator().manual_seed(0))
    made = next_round(table, [before], none, BETA)
    logps = torch.randn(len(table), 2, generator=torch.Generator().manual_seed(1))
    loss = pair_loss(log_ratio_gap(logps, made.reference), BETA, margin=made.margin)
    assert torch.equal(loss, pair_loss(log_ratio_gap(logps, before), BETA))


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.0), (0.3, 0.7, 0.0), (0.2, 0.3, 0.5)], ids=str)
def test_the_sequence_reaches_its_optimum(weights: tuple[float, float, float]) -> None:
    """Each round on exact expectations: pi_n = pi_{n-1} exp((r_n + sum_i lambda_i r_i) / beta), with r_i read off the rounds."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 8, generator=generator, dtype=torch.float64).log_softmax(-1)
    rewards = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    first, second = torch.combinations(torch.arange(8)).unbind(1)

    def gaps(values: torch.Tensor) -> torch.Tensor:
        return (values[..., first] - values[..., second]).flatten()

    policy, wanted, implied = base, base, dict[str, torch.Tensor]()
    for made in rounds(Preference.of(dict(zip(NAMES, weights, strict=True)), NAMES), NAMES):
        reward = rewards[NAMES.index(made.objective)]
        wanted = tilted(
            wanted, reward + sum(made.lambdas[i] * rewards[NAMES.index(i)] for i in made.lambdas), BETA
        )
        margin = sum((made.lambdas[i] * gaps(implied[i]) for i in made.lambdas), torch.zeros(4 * 28))
        fitted = minimised(policy, gaps, margin, torch.sigmoid(gaps(reward)))
        implied[made.objective] = BETA * (fitted - policy) - sum(
            made.lambdas[i] * implied[i] for i in made.lambdas
        )
        policy = fitted
    assert total_variation(policy, wanted) < 1e-6


def minimised(reference: torch.Tensor, gaps, margin: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Return the log-probabilities that minimise a round's loss, in which ``chance`` is that of the first answer of each pair."""
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=3000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        gap = gaps(logits.log_softmax(-1) - reference)
        value = pair_loss(gap, BETA, margin=margin, weight=chance, reversed_weight=1 - chance).mean()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    return logits.detach().log_softmax(-1)


def test_rounds_in_common_are_trained_once_and_corners_are_dpo(lab: Lab) -> None:
    names = ("short", "good")
    asked = [*(Preference.one_hot(name, names) for name in names), Preference.uniform(names)]
    policy = spo.train(
        Inputs(lab, make_dataset(), make_dataset(4, seed=9), asked), SPOConfig(order=("good", "short"))
    )
    assert [adapter.info["method"] for adapter in policy.adapters] == ["dpo", "dpo", "spo"]
    last = policy.adapters[2]
    assert last.info["objective"] == "short" and last.info["lambdas"] == {"good": 1.0}
    assert last.info["stages"] == ["adapters/dpo-good", "adapters/spo-short=0.5,good=0.5"], (
        "it goes on from round 1"
    )


@pytest.mark.parametrize(
    ("order", "preference", "words"),
    [
        (("a", "x"), "a=0.5,b=0.5", "order: unknown objective 'x'"),
        (("a",), "a=0.5,b=0.5", "expected each of a, b once, as each has a round"),
        (("a", "b", "b"), "a=0.5,b=0.5", "expected each of a, b once"),
        (
            (),
            "a=0.98,b=0.02",
            r"'b' has the share 0.02 of the weights up to its round, below min_weight 0.05",
        ),
    ],
)
def test_orders_and_weights_that_would_not_do_are_refused(
    order: tuple[str, ...], preference: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        spo.check(SPOConfig(order=order), ("a", "b"), [Preference.parse(preference)])
    spo.check(SPOConfig(order=("b", "a")), ("a", "b"), [Preference.parse("a=0.98,b=0.02")])
