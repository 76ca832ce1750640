"""Advantages and policy-gradient losses: worked numbers, laws, and the known optimum pi_ref exp(w.r / beta)."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from oracles.tabular import tilted, total_variation
from paretune.core.scalarise import Shape
from paretune.training.losses import grpo_loss, rloo_loss
from paretune.training.rl.advantages import (
    agreed,
    combined,
    covariances,
    effective_weights,
    group_standardised,
    grpo_advantages,
    leave_one_out,
    rloo_advantages,
)

BETA, WEIGHTS = 0.5, torch.tensor([0.3, 0.7], dtype=torch.float64)
REWARDS = torch.tensor([[1.0, -0.5], [-1.0, 0.8], [0.2, 0.1]], dtype=torch.float64)  # [actions, M]
REFERENCE = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()


def test_worked_numbers() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    assert leave_one_out(rewards).tolist() == [[-3.0, -1.5, 4.5]]
    deviation = 7**0.5  # Bessel's correction, as TRL
    expected = [(r - 3) / (deviation + 1e-4) for r in (1, 2, 6)]
    assert group_standardised(rewards).tolist()[0] == pytest.approx(expected)
    assert group_standardised(torch.ones(1, 4)).tolist() == [[0.0] * 4], "a tie says nothing"
    shaped = rloo_advantages(rewards, torch.tensor([[0.0, 2.0, 4.0]]), 0.5)
    assert shaped.tolist() == [leave_one_out(torch.tensor([[1.0, 1.0, 4.0]])).tolist()[0]]


def test_sum_weighs_rewards_and_decoupled_weighs_their_standing_in_the_group() -> None:
    rewards = torch.tensor([[[0.0, 10.0], [1.0, 0.0], [2.0, 5.0]]])  # [1, 3, 2]
    half = torch.tensor([[0.5, 0.5]])
    assert combined(rewards, half).tolist() == [[5.0, 0.5, 3.5]]
    decoupled = combined(rewards, half, "decoupled")[0]
    torch.testing.assert_close(decoupled, torch.tensor([0.0, -0.5, 0.5]), atol=1e-4, rtol=0)
    wider = combined(rewards * torch.tensor([1.0, 100.0]), half, "decoupled")[0]
    torch.testing.assert_close(wider, decoupled, atol=1e-3, rtol=0)
    assert combined(rewards, torch.tensor([[1.0, 0.0]])).tolist() == rewards[..., 0].tolist()


def test_covariance_tells_which_objective_falls() -> None:
    rewards = torch.tensor([[[0.0, 3.0], [1.0, 1.0], [2.0, -1.0]]])
    first, second = covariances(rewards, leave_one_out(rewards[..., 0]))[0].tolist()
    assert first > 0 > second
    assert covariances(rewards + 5, leave_one_out(rewards[..., 0]))[0].tolist() == pytest.approx(
        [first, second]
    )


def test_scalarisations_weigh_the_gradient() -> None:
    means, weights = torch.tensor([[0.1, 0.4]]), torch.tensor([[0.5, 0.5]])
    ideal = torch.ones(2)
    assert effective_weights(means, weights, "linear", ideal).tolist() == weights.tolist()
    assert effective_weights(means, weights, "tchebycheff", ideal).tolist() == [[0.5, 0.0]]
    smooth = effective_weights(means, weights, "smooth-tchebycheff", ideal, Shape(mu=0.05))[0]
    assert 0 < smooth[1] < smooth[0] < 0.5 and float(smooth.sum()) == pytest.approx(0.5)
    augmented = effective_weights(means, weights, "augmented-tchebycheff", ideal, Shape(rho=0.1))
    assert augmented[0].tolist() == pytest.approx([0.55, 0.05])


def expected_rloo_gradient(logits: Tensor) -> Tensor:
    """The mean over all pairs of sampled actions (K = 2) of the gradient of RLOO's loss, in closed form."""
    logits = logits.clone().requires_grad_()
    logps = logits.log_softmax(-1)
    loss = torch.zeros((), dtype=logits.dtype)
    for pair in itertools.product(range(len(logits)), repeat=2):
        drawn = logps[list(pair)]
        rewards = combined(REWARDS[list(pair)][None], WEIGHTS[None])
        advantages = rloo_advantages(rewards, (drawn.detach() - REFERENCE[list(pair)])[None], BETA)[0]
        loss = loss + drawn.detach().sum().exp() * rloo_loss(drawn, drawn.detach(), advantages, 0.2).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


def test_the_expected_rloo_gradient_is_that_of_the_objective_and_zero_at_its_optimum() -> None:
    logits = torch.tensor([0.3, -1.0, 0.4], dtype=torch.float64, requires_grad=True)
    logps = logits.log_softmax(-1)
    objective = (logps.exp() * (REWARDS @ WEIGHTS - BETA * (logps - REFERENCE))).sum()
    (exact,) = torch.autograd.grad(-objective, logits)
    torch.testing.assert_close(expected_rloo_gradient(logits.detach()), exact)
    best = tilted(REFERENCE, REWARDS @ WEIGHTS, BETA)
    assert expected_rloo_gradient(best).abs().max() < 1e-15
    drawn = torch.tensor([[0, 2, 1, 1]])
    shaped = rloo_advantages((REWARDS @ WEIGHTS)[drawn], (best - REFERENCE)[drawn], BETA)
    assert shaped.abs().max() < 1e-15, "there is no noise at the optimum: every sample's advantage is 0"


def test_the_penalty_of_each_token_is_exact_for_one_token_and_not_for_two() -> None:
    """GRPO leaves out what a token does to the penalty of later ones; RLOO, which shapes whole responses, does not."""
    best = tilted(REFERENCE, REWARDS @ WEIGHTS, BETA).requires_grad_()
    logps, reward = best.log_softmax(-1), REWARDS @ WEIGHTS
    advantages = reward - (logps.exp() * reward).sum().detach()
    loss = grpo_loss(logps, logps.detach(), REFERENCE, advantages, BETA, 0.2)
    (gradient,) = torch.autograd.grad((logps.detach().exp() * loss).sum(), best)
    assert gradient.abs().max() < 1e-15

    first_ref, second_ref, rewards = tree()
    flat = tilted((first_ref[:, None] + second_ref).flatten(), (rewards @ WEIGHTS).flatten(), BETA).view(2, 3)
    first = flat.logsumexp(-1).requires_grad_()
    second = (flat - flat.logsumexp(-1, keepdim=True)).requires_grad_()
    one, two = first.log_softmax(-1)[:, None].expand(2, 3), second.log_softmax(-1)
    path = (one + two).detach()
    advantages = rewards @ WEIGHTS - (path.exp() * (rewards @ WEIGHTS)).sum()
    grpo = sum(
        grpo_loss(logps, logps.detach(), reference, advantages, BETA, 0.2)
        for logps, reference in ((one, first_ref[:, None].expand(2, 3)), (two, second_ref))
    )
    shaped = rewards @ WEIGHTS - BETA * (path - first_ref[:, None] - second_ref)
    rloo = rloo_loss(one + two, path, shaped - (path.exp() * shaped).sum(), 0.2)
    for loss, exact in ((grpo, False), (rloo, True)):
        gradients = torch.autograd.grad((path.exp() * loss).sum(), [first, second], retain_graph=True)
        assert (max(float(g.abs().max()) for g in gradients) < 1e-15) == exact


def tree() -> tuple[Tensor, Tensor, Tensor]:
    """Reference log-probabilities of two steps, ``[2]`` and ``[2, 3]``, and rewards of whole paths ``[2, 3, M]``."""
    generator = torch.Generator().manual_seed(3)
    first = torch.tensor([0.6, 0.4], dtype=torch.float64).log()
    second = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    return first, second, torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)


def trained(logps_of: object, parameters: list[Tensor], draw: object, epochs: int, seed: int) -> None:
    """Sample, weigh, step: the loop of the on-policy task on a table."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(300):
        actions, rewards, reference = draw(generator)  # type: ignore[operator]
        old = logps_of(actions).detach()  # type: ignore[operator]
        weights = WEIGHTS.expand(len(rewards), -1)
        advantages = rloo_advantages(combined(rewards, weights), old - reference, BETA)
        for _ in range(epochs):
            loss = rloo_loss(logps_of(actions), old, advantages, 0.2).mean()  # type: ignore[operator]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_bandit_is_learned_to_its_known_optimum(epochs: int) -> None:
    logits = REFERENCE.clone().requires_grad_()

    def logps_of(actions: Tensor) -> Tensor:
        return logits.log_softmax(-1)[actions]

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        drawn = logits.detach().softmax(-1).multinomial(64, replacement=True, generator=generator)
        actions = drawn.view(16, 4)
        return actions, REWARDS[actions], REFERENCE[actions]

    trained(logps_of, [logits], draw, epochs, seed=1)
    best = tilted(REFERENCE, REWARDS @ WEIGHTS, BETA)
    assert total_variation(REFERENCE, best) > 0.1
    assert total_variation(logits.detach().log_softmax(-1), best) < 0.02


def test_a_two_step_tree_is_learned_to_its_known_optimum() -> None:
    """The reward is of the whole path, so the first step must learn the normalisers of the second."""
    first_ref, second_ref, rewards = tree()
    first, second = first_ref.clone().requires_grad_(), second_ref.clone().requires_grad_()

    def logps_of(path: Tensor) -> Tensor:
        return first.log_softmax(-1)[path[..., 0]] + second.log_softmax(-1)[path[..., 0], path[..., 1]]

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        a = first.detach().softmax(-1).multinomial(128, replacement=True, generator=generator)
        b = second.detach().softmax(-1)[a].multinomial(1, generator=generator)[:, 0]
        path = torch.stack([a, b], dim=-1).view(32, 4, 2)
        return (
            path,
            rewards[path[..., 0], path[..., 1]],
            first_ref[path[..., 0]] + second_ref[a, b].view(32, 4),
        )

    trained(logps_of, [first, second], draw, 1, seed=2)
    reference = (first_ref[:, None] + second_ref).flatten()
    best = tilted(reference, (rewards @ WEIGHTS).flatten(), BETA)
    learned = (first.log_softmax(-1)[:, None] + second.log_softmax(-1)).detach().flatten()
    assert total_variation(reference, best) > 0.2
    assert total_variation(learned, best) < 0.02


def test_grpo_decoupled_is_standardised_over_the_batch() -> None:
    rewards = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.2, 0.8]).expand(5, 2)
    advantages = grpo_advantages(rewards, weights, "decoupled")
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantages.std()) == pytest.approx(1, abs=1e-3)


def test_dvao_by_hand_and_bounded_by_the_sum() -> None:
    """Deviations 1 and 2 at weights (.5, .5): the standardised rewards weigh 1/3 and 2/3; never more than the summed reward's."""
    rewards = torch.tensor([[[-1.0, 2.0], [0.0, 0.0], [1.0, -2.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    found = grpo_advantages(rewards, weights, "dvao")
    assert found[0].tolist() == pytest.approx([1 / 3, 0.0, -1 / 3], abs=1e-3)
    torch.manual_seed(0)
    many = torch.randn(50, 6, 3, dtype=torch.float64)
    w = torch.rand(50, 3, dtype=torch.float64)
    w = w / w.sum(1, keepdim=True)
    bounded, summed = grpo_advantages(many, w, "dvao").abs(), grpo_advantages(many, w, "sum").abs()
    assert bool((bounded <= summed + 1e-9).all()) and bool((bounded < summed - 1e-3).any())
    alike = many[..., :1].expand(50, 6, 3)  # nothing to disagree on
    torch.testing.assert_close(grpo_advantages(alike, w, "dvao"), grpo_advantages(alike, w, "sum"))
    one_hot = torch.eye(3, dtype=torch.float64)[:1].expand(50, 3)
    alone = grpo_advantages(many[..., :1], torch.ones(50, 1, dtype=torch.float64), "sum")
    torch.testing.assert_close(grpo_advantages(many, one_hot, "dvao"), alone)


def test_gd2po_leaves_out_what_objectives_disagree_on() -> None:
    """Standardised (1, -1), (1, 1), (-2, 0) at equal weights: the first is left out; 0 opposes nothing."""
    standardised = torch.tensor([[[1.0, -1.0], [1.0, 1.0], [-2.0, 0.0], [1.0, -0.5]]])
    weights = torch.tensor([[0.5, 0.5]])
    assert agreed(standardised, weights, 1.0).tolist() == [[False, True, True, False]]
    # |.5 - .25| / (.5 + .25) = 1/3 is above the released threshold, 0 is not.
    assert agreed(standardised, weights, 0.2).tolist() == [[False, True, True, True]]
    assert bool(agreed(standardised, weights, 0.0).all())
    assert bool(
        agreed(standardised, torch.tensor([[1.0, 0.0]]), 1.0).all()
    )  # without weight nothing disagrees
    torch.manual_seed(1)
    rewards, w = torch.randn(8, 5, 2), torch.full((8, 2), 0.5)
    found = grpo_advantages(rewards, w, "gd2po")
    kept = agreed(group_standardised(rewards, dim=1), w, 1.0)
    assert bool((found[~kept] == 0).all()) and 0 < int(kept.sum()) < kept.numel()
    assert float(found[kept].mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(found[kept].std()) == pytest.approx(1.0, abs=1e-3)
    # By the released code: standardise each reward, sum, times the share kept of the group, standardise what is kept.
    share = kept.float().mean(1, keepdim=True)
    summed = (group_standardised(rewards, dim=1) * w[:, None]).sum(-1) * share
    wanted = (summed - summed[kept].mean()) / summed[kept].std()
    torch.testing.assert_close(found[kept], wanted[kept], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        grpo_advantages(rewards, w, "gd2po", 0.0), grpo_advantages(rewards, w, "decoupled")
    )
    opposed = torch.stack([rewards[..., 0], -rewards[..., 0]], -1)
    assert not grpo_advantages(opposed, w, "gd2po").any()
