"""The pair loss against the worked numbers of MODPO's specification, its laws, and DPO as the special case."""

from __future__ import annotations

import math

import pytest
import torch

from paretune.training.losses import Penalty, divergence_gap, kl_estimate, log_ratio_gap, nll_loss, pair_loss

# l_theta = (-42, -55.5), l_ref = (-40, -50), beta = 0.1. Delta = (-2) - (-5.5) = 3.5.
LOGPS = torch.tensor([[-42.0, -55.5]], dtype=torch.float64)
REFERENCE = torch.tensor([[-40.0, -50.0]], dtype=torch.float64)

FIXTURES = [
    # w_k, weighted margin (chosen minus rejected), z, loss, gradient on the chosen log-probability
    (1.0, 0.0, 0.35, 0.5333821554, -0.0413382421),
    (0.5, 0.5 * (0.7 + 0.3), -0.30, 0.8543552445, -0.1148885034),
    (0.5, 0.0, 0.70, 0.4031860489, -0.0663624456),
    (0.1, 0.9 * (0.7 + 0.3), -5.5, 5.5040784433, -0.9959298623),
    (0.2, 0.3 * (0.7 + 0.3) + 0.5 * (-1 - 0.25), 3.375, 0.0336457000, -0.0165429892),
]


@pytest.mark.parametrize(("weight", "margin", "z", "loss", "gradient"), FIXTURES)
def test_worked_numbers(weight: float, margin: float, z: float, loss: float, gradient: float) -> None:
    logps = LOGPS.clone().requires_grad_()
    gap = log_ratio_gap(logps, REFERENCE)
    assert ((0.1 * gap - margin) / weight).item() == pytest.approx(z, abs=1e-12)
    value = pair_loss(gap, 0.1, margin=margin, scale=1 / weight)
    value.mean().backward()
    assert value.item() == pytest.approx(loss, abs=1e-9)
    assert logps.grad is not None
    assert logps.grad[0, 0].item() == pytest.approx(gradient, abs=1e-9)
    assert logps.grad[0, 1].item() == pytest.approx(-gradient, abs=1e-9)


@pytest.fixture
def gaps() -> torch.Tensor:
    return torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5


def test_weight_one_is_dpo_bit_for_bit(gaps: torch.Tensor) -> None:
    modpo = pair_loss(gaps, 0.1, margin=torch.zeros(64, dtype=torch.float64), scale=1 / 1.0)
    assert torch.equal(modpo, pair_loss(gaps, 0.1))
    torch.testing.assert_close(modpo, -torch.nn.functional.logsigmoid(0.1 * gaps))


def test_zero_margins_are_dpo_at_beta_over_weight(gaps: torch.Tensor) -> None:
    torch.testing.assert_close(pair_loss(gaps, 0.1, scale=1 / 0.4), pair_loss(gaps, 0.1 / 0.4))


def test_scaling_beta_and_weights_together_changes_nothing(gaps: torch.Tensor) -> None:
    margin = gaps.flip(0) * 0.2
    for c in (0.1, 7.0):
        scaled = pair_loss(gaps, 0.1 * c, margin=0.6 * c * margin, scale=1 / (0.4 * c))
        torch.testing.assert_close(scaled, pair_loss(gaps, 0.1, margin=0.6 * margin, scale=1 / 0.4))


def test_swapping_the_pair_negates_z(gaps: torch.Tensor) -> None:
    margin = gaps.flip(0) * 0.2
    torch.testing.assert_close(
        pair_loss(-gaps, 0.1, margin=-margin, scale=2.0, weight=0.0, reversed_weight=1.0),
        pair_loss(gaps, 0.1, margin=margin, scale=2.0),
    )


def test_shifted_reference_is_the_margin_form() -> None:
    """Eq. 11 is DPO at beta / w_k against reference log-probabilities shifted by the weighted margins over beta."""
    generator = torch.Generator().manual_seed(1)
    logps, reference, rewards = (
        torch.randn(16, 2, generator=generator, dtype=torch.float64) * 9 for _ in range(3)
    )
    weight, other, beta = 0.3, 0.7, 0.1
    direct = pair_loss(
        log_ratio_gap(logps, reference),
        beta,
        margin=other * (rewards[:, 0] - rewards[:, 1]),
        scale=1 / weight,
    )
    shifted = pair_loss(log_ratio_gap(logps, reference + other * rewards / beta), beta / weight)
    torch.testing.assert_close(direct, shifted)


def test_policy_that_equals_the_margin_models_has_z_zero() -> None:
    generator = torch.Generator().manual_seed(2)
    reference, margin_model = (torch.randn(8, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    policy = reference + 0.7 * (margin_model - reference)
    margin = 0.7 * 0.1 * log_ratio_gap(margin_model, reference)
    loss = pair_loss(log_ratio_gap(policy, reference), 0.1, margin=margin, scale=1 / 0.3)
    torch.testing.assert_close(loss, torch.full((8,), 2.0, dtype=torch.float64).log())


def test_conflicting_votes_are_minimised_at_the_logit() -> None:
    share = 0.8
    gap = torch.linspace(-60, 60, 120_001, dtype=torch.float64)
    loss = pair_loss(gap, 0.1, weight=share, reversed_weight=1 - share)
    assert 0.1 * gap[loss.argmin()].item() == pytest.approx(torch.logit(torch.tensor(share)).item(), abs=1e-3)
    half = pair_loss(gap, 0.1, weight=0.5, reversed_weight=0.5)
    assert half.min().item() == pytest.approx(0.6931471806, abs=1e-9)


def test_large_arguments_stay_finite() -> None:
    gap = torch.tensor([-1e6, 1e6], requires_grad=True)
    loss = pair_loss(gap, 0.1, scale=20.0)
    loss.sum().backward()
    assert loss.isfinite().all() and gap.grad is not None and gap.grad.isfinite().all()


def test_hinge_is_flat_beyond_one() -> None:
    gap = torch.tensor([0.0, 5.0, 20.0])
    assert pair_loss(gap, 0.1, link="hinge").tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_nll_divides_by_response_tokens() -> None:
    assert nll_loss(torch.tensor([-6.0]), torch.tensor([3])).item() == 2.0


def test_kl_estimate_is_unbiased_and_never_negative() -> None:
    generator = torch.Generator().manual_seed(3)
    policy, reference = (
        torch.randn(6, generator=generator, dtype=torch.float64).softmax(0) for _ in range(2)
    )
    values = kl_estimate(policy.log(), reference.log())
    assert (values >= 0).all()
    torch.testing.assert_close((policy * values).sum(), (policy * (policy / reference).log()).sum())


def test_policy_gradient_is_clipped_on_the_side_that_gains() -> None:
    """Worked: 4 tokens, d = +-0.1 and 0.4 nats a token; a gain beyond 1 + clip has no gradient, a loss keeps its."""
    from paretune.training.losses import policy_gradient_loss

    lengths, reference = torch.tensor([4, 4, 4]), torch.full((3,), -8.0, dtype=torch.float64)
    logps = torch.tensor([-8.4, -7.6, -6.4], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    loss = policy_gradient_loss(logps, reference, lengths, advantages, beta=0.0, clip=0.2)
    rho = [math.exp(d) for d in (-0.1, 0.1, 0.4)]
    expected = [[-rho[0], rho[0]], [-rho[1], rho[1]], [-1.2, rho[2]]]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))
    (gain,) = torch.autograd.grad(loss[:, 0].sum(), logps, retain_graph=True)
    assert gain.tolist() == pytest.approx([-rho[0] / 4, -rho[1] / 4, 0.0])
    penalised = policy_gradient_loss(logps, reference, lengths, torch.zeros_like(advantages), beta=0.5)
    assert penalised[0].tolist() == pytest.approx([0.5 * (rho[0] - 1 + 0.1)] * 2)
    assert (
        float(policy_gradient_loss(reference, reference, lengths, 0 * advantages, 0.5).detach().abs().max())
        == 0
    )


# Other divergences (f-DPO)

D_CHOSEN, D_REJECTED = -2.0, -5.5  # log-ratios of LOGPS to REFERENCE
WORKED = [
    (Penalty("reverse-kl"), 3.5),
    (Penalty("forward-kl"), -math.exp(2.0) + math.exp(5.5)),
    (Penalty("alpha", 0.5), 2 * (math.exp(2.75) - math.exp(1.0))),
    (Penalty("jensen-shannon"), math.log(2 / (1 + math.exp(2.0))) - math.log(2 / (1 + math.exp(5.5)))),
]


@pytest.mark.parametrize(("penalty", "gap"), WORKED, ids=lambda value: str(value)[:30])
def test_worked_gaps_of_other_divergences(penalty: Penalty, gap: float) -> None:
    """beta (f'(ratio of chosen) - f'(ratio of rejected)); a step on it raises chosen by beta f''(t) t, rejected falls."""
    logps = LOGPS.clone().requires_grad_()
    value = divergence_gap(logps, REFERENCE, penalty)
    assert value.item() == pytest.approx(gap, rel=1e-12)
    pair_loss(value, 0.1).sum().backward()
    assert logps.grad is not None and logps.grad[0, 0] < 0 < logps.grad[0, 1]


@pytest.mark.parametrize(("penalty", "_"), WORKED, ids=lambda value: str(value)[:30])
def test_at_the_reference_every_divergence_steps_like_dpo(penalty: Penalty, _: float) -> None:
    """The slope of f' in log t is 1 at t = 1 (1/2 for Jensen-Shannon), so the first step is DPO's."""
    logps = REFERENCE.clone().requires_grad_()
    divergence_gap(logps, REFERENCE, penalty).sum().backward()
    size = 0.5 if penalty.divergence == "jensen-shannon" else 1.0
    assert logps.grad is not None and logps.grad[0].tolist() == pytest.approx([size, -size])


@pytest.mark.parametrize("penalty", [Penalty("forward-kl"), Penalty("alpha", 0.9), Penalty("jensen-shannon")])
def test_a_response_that_is_given_up_does_not_overflow(penalty: Penalty) -> None:
    reference = torch.zeros(2, 2)
    logps = torch.tensor([[-500.0, 3.0], [3.0, -500.0]], requires_grad=True)
    loss = pair_loss(divergence_gap(logps, reference, penalty), 0.5)
    loss.sum().backward()
    assert loss.isfinite().all() and logps.grad is not None and logps.grad.isfinite().all()
    assert loss[0] > loss[1], "also where it is the chosen one"


def test_what_a_penalty_stores() -> None:
    assert Penalty().facts() == {}, "identities of DPO's adapters stay"
    assert Penalty("forward-kl", 0.3).facts() == {"divergence": "forward-kl"}
    assert Penalty("alpha", 0.3).facts() == {"divergence": "alpha", "divergence_alpha": 0.3}
