"""Multi-objective decoding: the rules against brute force, and decoding against a loop written by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from oracles.tabular import tilted
from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.generation.batch import Batch
from paretune.generation.generate import attached
from paretune.generation.mixing import (
    DIVERGENCES,
    Mixing,
    Mixture,
    combine,
    combine_general,
    exponents,
    mix,
    resample,
)
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.policies.mixed import candidate_seed
from paretune.policies.one_pass import chosen_logps
from paretune.policies.policy import Policy
from support.adapters import random_adapter
from support.world import make_dataset

OBJECTIVES = ("short", "good")
GREEDY = Sampling(max_new_tokens=6, temperature=0.0, batch_size=3)


def random_logps(*shape: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread).log_softmax(-1)


def test_reverse_kl_is_the_geometric_mixture() -> None:
    logps, w = random_logps(3, 2, 7), torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]])
    mixed, log_z = combine(logps, w)
    expected = (logps.exp() ** w.double()[:, :, None]).prod(1)
    torch.testing.assert_close(log_z, expected.sum(-1).log())
    torch.testing.assert_close(mixed.exp(), expected / expected.sum(-1, keepdim=True))
    assert bool((log_z <= 1e-12).all()) and log_z[1].abs() < 1e-12
    swapped, _ = combine(logps.flip(1), w.flip(1))
    torch.testing.assert_close(swapped, mixed)
    equal, z = combine(logps[:, :1].expand(-1, 2, -1), w)
    torch.testing.assert_close(equal, logps[:, 0])
    torch.testing.assert_close(z, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


F_PRIME = {
    "reverse-kl": lambda t, a: torch.log(t),
    "forward-kl": lambda t, a: -1 / t,
    "alpha": lambda t, a: (1 - t**-a) / a,
    "jensen-shannon": lambda t, a: torch.log(2 * t / (1 + t)),
}
F = {
    "forward-kl": lambda t, a: -torch.log(t),
    "alpha": lambda t, a: t / a - t ** (1 - a) / (a * (1 - a)),
    "jensen-shannon": lambda t, a: t * torch.log(t) - (t + 1) * torch.log((t + 1) / 2),
}


@pytest.mark.parametrize("divergence", ["forward-kl", "alpha", "jensen-shannon"])
@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_general_divergences_solve_for_the_dual_constant(divergence: str, alpha: float) -> None:
    policies, reference = random_logps(2, 2, 50), random_logps(2, 50, seed=1)
    w = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    mixed, c = combine_general(policies, w, reference, divergence, alpha)  # type: ignore[arg-type]
    assert mixed.exp().sum(-1) == pytest.approx([1.0, 1.0], abs=1e-12)
    slope = F_PRIME[divergence]
    left = slope((mixed - reference).exp(), alpha)
    right = (w[:, :, None] * slope((policies - reference[:, None]).exp(), alpha)).sum(1) - c[:, None]
    torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("divergence", ["forward-kl", "alpha", "jensen-shannon"])
def test_general_divergences_reach_the_optimum_by_brute_force(divergence: str) -> None:
    """Maximise E[sum_i w_i r_i] - beta D_f over five outcomes with a solver that knows nothing of the closed form."""
    V, beta, alpha, w = 5, 0.5, 0.3, np.array([0.8, 0.2])
    policies, reference = random_logps(1, 2, V, spread=0.8), random_logps(1, V, seed=1, spread=0.5)
    mixed, _ = combine_general(policies, torch.tensor(w)[None], reference, divergence, alpha)  # type: ignore[arg-type]
    ref, ratio = reference[0].exp(), (policies[0] - reference).exp()
    reward = (torch.tensor(w)[:, None] * beta * F_PRIME[divergence](ratio, alpha)).sum(0)
    logits = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        p = logits.softmax(0)
        value = -(p @ reward) + beta * (ref * F[divergence](p / ref, alpha)).sum()
        value.backward()
        return value

    search.step(loss)
    assert (logits.detach().softmax(0) - mixed[0].exp()).abs().max() < 1e-5
    dropped = (reference[0] + torch.log(ratio).T @ torch.tensor(w)).softmax(-1)  # the reverse-KL rule instead
    assert (dropped - mixed[0].exp()).abs().sum() / 2 > 0.01


def test_one_hot_is_that_policy_under_every_divergence() -> None:
    policies, reference = random_logps(1, 3, 9), random_logps(1, 9, seed=1)
    for divergence in DIVERGENCES[1:]:
        mixed, _ = combine_general(policies, torch.tensor([[0.0, 1.0, 0.0]]), reference, divergence)
        torch.testing.assert_close(mixed, policies[:, 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("weights", [[0.3, 0.7], [0.0, 1.0]])
def test_a_token_that_no_copy_can_emit_changes_nothing_about_the_others(
    divergence: str, weights: list[float]
) -> None:
    """As where a grammar or a stop list rules tokens out: the mixture is that of the vocabulary without them."""
    policies, reference = random_logps(1, 2, 6), random_logps(1, 6, seed=1)
    w, nothing = torch.tensor([weights]), torch.tensor(-torch.inf, dtype=torch.float64)
    wider = (
        torch.cat([policies, nothing.expand(1, 2, 2)], -1),
        torch.cat([reference, nothing.expand(1, 2)], -1),
    )
    if divergence == "reverse-kl":
        (short, _), (wide, _) = combine(policies, w), combine(wider[0], w)
    else:
        short, _ = combine_general(policies, w, reference, divergence)  # type: ignore[arg-type]
        wide, c = combine_general(*wider[:1], w, wider[1], divergence)  # type: ignore[arg-type]
        assert bool(c.isfinite().all())
    torch.testing.assert_close(wide[:, :6], short)
    assert bool((wide[:, 6:] == -torch.inf).all())


@pytest.mark.parametrize("divergence", DIVERGENCES[1:])
def test_a_token_that_one_policy_never_emits_has_no_probability(divergence: str) -> None:
    """f' is -infinity there, and so is the weighted sum; without weight the policy says nothing about it."""
    policies, reference = random_logps(1, 2, 6), random_logps(1, 6, seed=1)
    policies[0, 0, 3] = -torch.inf
    policies = policies.log_softmax(-1)
    mixed, _ = combine_general(policies, torch.tensor([[0.4, 0.6]]), reference, divergence)  # type: ignore[arg-type]
    assert mixed[0, 3] == -torch.inf and mixed.exp().sum() == pytest.approx(1)
    alone, _ = combine_general(policies, torch.tensor([[0.0, 1.0]]), reference, divergence)  # type: ignore[arg-type]
    torch.testing.assert_close(alone, policies[:, 1], rtol=1e-9, atol=1e-9)


def test_exponents_leave_the_rest_to_the_reference() -> None:
    w = torch.tensor([[0.3, 0.7], [0.1, 0.9]])
    assert torch.equal(exponents(w)[:, 0], torch.zeros(2, dtype=torch.float64))
    uneven = exponents(w, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(
        uneven[0], torch.tensor([0.15, 0.15, 0.7], dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert exponents(torch.tensor([[1.2, -0.2]])).tolist()[0] == pytest.approx([0, 1.2, -0.2], abs=1e-6)


def test_different_betas_reach_the_optimum_of_the_weighted_reward() -> None:
    reference, rewards = random_logps(1, 6, seed=1), torch.randn(2, 6, dtype=torch.float64)
    betas, beta, w = torch.tensor([0.2, 0.6]), 0.6, torch.tensor([[0.4, 0.6]])
    policies = tilted(reference[0], rewards, betas[:, None])
    logps = torch.cat([reference, policies])[None]
    mixed, _ = combine(logps, exponents(w, betas.double() / beta))
    expected = (reference[0] + (w[0].double() @ rewards) / beta).log_softmax(-1)
    torch.testing.assert_close(mixed[0], expected, rtol=1e-6, atol=1e-6)


def test_normalisers_are_what_token_level_mixing_leaves_out() -> None:
    """Two steps of three tokens: q(y) prod_t Z_t, normalised, is the sequence-level mixture; q alone is not."""
    w = torch.tensor([[0.4, 0.6]])
    first, second = random_logps(1, 2, 3), random_logps(3, 2, 3, seed=2)
    q1, z1 = combine(first, w)
    q2, z2 = combine(second, w.expand(3, -1))
    q, weights, exact = [], [], []
    for a, b in itertools.product(range(3), range(3)):
        q.append(q1[0, a] + q2[a, b])
        weights.append(z1[0] + z2[a])
        exact.append(float((w[0].double() * (first[0, :, a] + second[a, :, b])).sum()))
    q, weights = torch.stack(q), torch.stack(weights)
    target = torch.tensor(exact, dtype=torch.float64).log_softmax(0)
    torch.testing.assert_close((q + weights).log_softmax(0), target)
    assert float((q.exp() * (q - target)).sum()) > 1e-3
    # Resampling 64 candidates comes nearer to the target than q is.
    generator = torch.Generator().manual_seed(0)
    candidates = torch.multinomial(q.exp(), 20_000 * 64, replacement=True, generator=generator).view(-1, 64)
    kept = resample(weights[candidates], torch.rand(20_000, generator=generator, dtype=torch.float64))
    drawn = candidates.gather(1, kept[:, None])[:, 0]
    share = torch.bincount(drawn, minlength=9).double() / len(drawn)
    assert (share - target.exp()).abs().sum() < 0.5 * (q.exp() - target.exp()).abs().sum()


def test_resampling_one_candidate_keeps_it() -> None:
    assert resample(torch.tensor([[-3.0], [0.0]]), torch.tensor([0.0, 0.999])).tolist() == [0, 0]
    assert resample(torch.tensor([[-100.0, 0.0]]), torch.tensor([0.5])).tolist() == [1]


def test_rows_of_different_numbers_of_copies_mix_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    mixture = Mixture(exponents(torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])))
    owners, kinds = mixture.copies.nonzero(as_tuple=True)
    assert owners.tolist() == [0, 0, 1, 2, 2, 2] and kinds.tolist() == [1, 2, 2, 1, 2, 3]
    logits = torch.randn(6, 11, generator=generator)
    mixed, z = mix(logits, owners, kinds, mixture)
    assert torch.equal(mixed[1], logits[2]) and z[1] == 0
    for row, copies in ((0, [0, 1]), (2, [3, 4, 5])):
        expected, log_z = combine(
            logits[copies].log_softmax(-1)[None], mixture.coefficients[row, kinds[copies]][None]
        )
        torch.testing.assert_close(mixed[row], expected[0])
        torch.testing.assert_close(z[row], log_z[0])
    shifted, _ = mix(logits + torch.arange(6.0)[:, None], owners, kinds, mixture)
    torch.testing.assert_close(shifted[[0, 2]], mixed[[0, 2]], rtol=1e-5, atol=1e-5)


def test_bad_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match="divergence 'kl'; expected one of: reverse-kl"):
        Mixing("kl")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="above 0 and below 1, got 1"):
        Mixing("alpha", 1.0)
    with pytest.raises(ConfigError, match="candidates must be at least 1"):
        Mixing(candidates=0)
    with pytest.raises(ConfigError, match="leave candidates at 1"):
        Mixing("forward-kl", candidates=4)


# Decoding


@pytest.fixture(scope="module")
def adapters(lm: LanguageModel) -> list[Adapter]:
    """Three random adapters, strong enough that they disagree."""
    return [random_adapter(lm, seed, info={"method": "dpo", "beta": 0.1}) for seed in range(3)]


def single(lm: LanguageModel, adapter: Adapter) -> Callable[[list[int]], Tensor]:
    """Return next-token log-probabilities of one adapter, without a cache."""

    def logps(ids: list[int]) -> Tensor:
        with torch.no_grad(), attached(lm, adapter) as steering, steering.at(adapter.gates()):
            return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    return logps


@pytest.mark.parametrize("M", [2, 3])
def test_greedy_decoding_is_the_loop_by_hand(lm: LanguageModel, adapters: list[Adapter], M: int) -> None:
    objectives = ("a", "b", "c")[:M]
    policy = Policy.mod("mod", lm, objectives, adapters[:M])
    w = Preference(objectives, (0.3, 0.7) if M == 2 else (0.2, 0.5, 0.3))
    prompts = [row.prompt for row in make_dataset(4, seed=3).rows]
    answers = policy.generate(prompts, [w] * 4, GREEDY)
    members = [single(lm, adapter) for adapter in adapters[:M]]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, total = list(lm.encode_prompt(prompt)), 0.0
        for token, log_z in zip(answer.tokens, answer.normalisers, strict=True):
            each = torch.stack([logps(ids) for logps in members])
            mixed, z = combine(each[None], torch.tensor([w.weights]))
            assert int(mixed[0].argmax()) == token
            assert log_z == pytest.approx(float(z), abs=1e-4)
            total += float(mixed[0, token])
            ids.append(token)
        assert answer.logp == pytest.approx(total, abs=1e-3)
        assert min(answer.normalisers) < -1e-3


def test_a_prompt_is_read_once_for_all_mixtures_of_the_same_policies(
    lm: LanguageModel, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts at three preferences and two seeds each are 24 copies, of which four prompts-and-policies are read."""
    policy = Policy.mod("mod", lm, ("a", "b"), adapters[:2])
    drawn = Sampling(5, temperature=1.0, batch_size=12)
    prompts = [row.prompt for row in make_dataset(2, seed=3).rows for _ in range(6)]
    asked = [Preference(("a", "b"), (w, 1 - w)) for w in (0.2, 0.5, 0.7) for _ in range(2)] * 2
    seeds = list(range(12))
    alone = [
        policy.generate([p], [w], drawn, seeds=[s])[0] for p, w, s in zip(prompts, asked, seeds, strict=True)
    ]
    read = []
    forward = Batch._forward

    def counting(self: Batch, cache: DynamicCache, ids: list[list[int]], *rest: object) -> object:
        read.append(len(ids))
        return forward(self, cache, ids, *rest)

    monkeypatch.setattr(Batch, "_forward", counting)
    together = policy.generate(prompts, asked, drawn, seeds=seeds)
    assert read[0] == 4 and read[1] > 12
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.logp for answer in together] == pytest.approx([answer.logp for answer in alone], abs=1e-4)
    assert len({answer.tokens for answer in together}) > 6


def test_corners_and_equal_policies(lm: LanguageModel, adapters: list[Adapter]) -> None:
    prompts = [row.prompt for row in make_dataset(3, seed=3).rows]
    sampled = replace(GREEDY, temperature=1.0, top_p=0.9)
    policy = Policy.mod("mod", lm, OBJECTIVES, adapters[:2])
    soup = Policy.soup("soup", lm, OBJECTIVES, adapters[:2])
    twins = Policy.mod("twins", lm, OBJECTIVES, [adapters[0], adapters[0]])
    inner = Preference(OBJECTIVES, (0.4, 0.6))
    for sampling in (GREEDY, sampled):
        for number, objective in enumerate(OBJECTIVES):
            corner = Preference.one_hot(objective, OBJECTIVES)
            assert policy.effective(corner) == soup.effective(corner)
            ours, theirs = (p.generate(prompts, [corner] * 3, sampling) for p in (policy, soup))
            assert [(r.tokens, r.logp) for r in ours] == [(r.tokens, r.logp) for r in theirs]
            assert all(set(r.normalisers) == {0.0} for r in ours)
            if number == 0:
                mixed = twins.generate(prompts, [inner] * 3, sampling)
                assert [r.tokens for r in mixed] == [r.tokens for r in ours]
                assert max(abs(z) for r in mixed for z in r.normalisers) < 1e-5
    assert policy.effective(inner) != soup.effective(inner)


def test_permuting_objectives_permutes_the_policy(lm: LanguageModel, adapters: list[Adapter]) -> None:
    prompts = [row.prompt for row in make_dataset(3, seed=3).rows]
    w = Preference(OBJECTIVES, (0.3, 0.7))
    one = Policy.mod("mod", lm, OBJECTIVES, adapters[:2]).generate(prompts, [w] * 3, GREEDY)
    two = Policy.mod("mod", lm, OBJECTIVES[::-1], adapters[1::-1]).generate(prompts, [w] * 3, GREEDY)
    assert [r.tokens for r in one] == [r.tokens for r in two]


def test_log_probabilities_are_those_of_decoding(lm: LanguageModel, adapters: list[Adapter]) -> None:
    prompts = [row.prompt for row in make_dataset(3, seed=3).rows]
    for mixing in (Mixing(), Mixing("forward-kl"), Mixing("alpha", 0.3)):
        trained = [
            replace(a, info={"divergence": mixing.divergence, "beta": 0.1 * (i + 1)})
            for i, a in enumerate(adapters[:2])
        ]
        policy = Policy.mod("mod", lm, OBJECTIVES, trained, mixing)
        w = [Preference(OBJECTIVES, (0.3, 0.7))] * 3
        answers = policy.generate(prompts, w, replace(GREEDY, temperature=1.0))
        groups = [(lm.encode_prompt(p), [r.tokens]) for p, r in zip(prompts, answers, strict=True)]
        for answer, (value,) in zip(answers, policy.logps(groups, w), strict=True):
            assert answer.logp == pytest.approx(float(value), abs=2e-3)
        distribution = policy.distribution(groups[0][0], answers[0].tokens, w[0])
        assert distribution.exp().sum(-1).tolist() == pytest.approx([1.0] * len(answers[0].tokens), abs=1e-4)
        assert float(chosen_logps(distribution, answers[0].tokens).sum()) == pytest.approx(
            answers[0].logp, abs=2e-3
        )


@pytest.mark.slow
def test_candidates_are_resampled(lm: LanguageModel, adapters: list[Adapter]) -> None:
    prompts = [row.prompt for row in make_dataset(4, seed=3).rows]
    w, sampling = [Preference(OBJECTIVES, (0.5, 0.5))] * 4, replace(GREEDY, temperature=1.0)
    plain = Policy.mod("mod", lm, OBJECTIVES, adapters[:2])
    resampled = Policy.mod("mod", lm, OBJECTIVES, adapters[:2], Mixing(candidates=8))
    first, second = (resampled.generate(prompts, w, sampling, [5, 6, 7, 8]) for _ in range(2))
    assert first == second
    for row, (prompt, seed) in enumerate(zip(prompts, (5, 6, 7, 8), strict=True)):
        candidates = plain.generate(
            [prompt] * 8, w[:1] * 8, sampling, [candidate_seed(seed, number) for number in range(8)]
        )
        uniform = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        weights = torch.tensor([[sum(r.normalisers) for r in candidates]])
        assert first[row].tokens == candidates[int(resample(weights, uniform[None]))].tokens
    assert resampled.effective(w[0]) != plain.effective(w[0])


def test_a_mixing_policy_is_saved(lm: LanguageModel, adapters: list[Adapter], tmp_path: Path) -> None:
    Policy.mod("mod", lm, OBJECTIVES, adapters[:2], Mixing(candidates=3)).save(tmp_path / "p")
    loaded = Policy.load(tmp_path / "p", lm)
    assert loaded.mixing == Mixing(candidates=3) and loaded.kind == "mod"


def test_policies_that_cannot_be_mixed_are_refused(lm: LanguageModel, adapters: list[Adapter]) -> None:
    with pytest.raises(ModelError, match="one adapter per objective: 3 adapters for 2"):
        Policy.mod("mod", lm, OBJECTIVES, adapters)
    with pytest.raises(
        ModelError, match="'short' was trained under the divergence reverse-kl; it cannot be mixed under"
    ):
        Policy.mod("mod", lm, OBJECTIVES, adapters[:2], Mixing("forward-kl"))
    stranger = replace(adapters[1], base="another")
    with pytest.raises(ModelError, match="another"):
        Policy.mod("mod", lm, OBJECTIVES, [adapters[0], stranger]).generate(
            [make_dataset(1).rows[0].prompt], [Preference(OBJECTIVES, (0.5, 0.5))], GREEDY
        )
