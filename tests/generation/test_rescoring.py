"""Value-augmented sampling: a step by hand, its laws, and the tabular world in which the optimum is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paretune.core.errors import ConfigError
from paretune.core.sampling import Sampling
from paretune.generation.batch import Batch, Slot
from paretune.generation.draw import draw, uniforms
from paretune.generation.generate import generate
from paretune.generation.mixing import Mixture
from paretune.generation.rescoring import Augmentation, Rescoring, gains
from paretune.models.language_model import LanguageModel
from paretune.models.values import Values, hidden_size


class Table(nn.Module):
    """Values that are looked up: state number and token -> ``[M]``, in place of trained heads."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values  # [states, V, M]

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        states = hidden[..., 0].long().expand_as(tokens)
        return self.values[states, tokens]


def looked_up(values: Tensor, candidates: int) -> Rescoring:
    return Rescoring(Table(values), nn.Identity(), candidates)  # type: ignore[arg-type]


def test_a_step_by_hand() -> None:
    """Of four tokens the likeliest two, of log-probabilities 2 and 1, have values (1, 0) and (3, 4); at strengths (0.5, 0.25) the
    centred values are (-1, -2) and (1, 2), so 1 nat goes from the first to the second. The others keep theirs."""
    values = torch.tensor([[[1.0, 0.0], [50.0, 50.0], [3.0, 4.0], [-50.0, 9.0]]])
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    scores = looked_up(values, 2)(logits, torch.zeros(1, 1), torch.tensor([[0.5, 0.25]]))
    assert torch.allclose(scores, torch.tensor([[1.0, 0.0, 2.0, -1.0]]))


def test_strength_zero_is_the_frozen_policy_bit_for_bit() -> None:
    random = torch.Generator().manual_seed(0)
    logits, values = torch.randn(3, 9, generator=random), torch.randn(1, 9, 2, generator=random)
    assert torch.equal(looked_up(values, 5)(logits, torch.zeros(3, 1), torch.zeros(3, 2)), logits)


def test_gains_are_linear_in_the_strengths_and_blind_to_a_constant() -> None:
    random = torch.Generator().manual_seed(1)
    values, strengths = torch.randn(2, 6, 3, generator=random), torch.rand(2, 3, generator=random)
    found = gains(values, strengths)
    assert torch.allclose(gains(values + 100.0, strengths), found, atol=1e-4), (
        "what all candidates share does not matter"
    )
    assert torch.allclose(gains(values, 3 * strengths), 3 * found, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.zeros(2), atol=1e-5), (
        "what is given is taken from the other candidates"
    )
    one = torch.eye(3)[:1].expand(2, 3)
    assert torch.allclose(gains(values, one), gains(values[..., :1], torch.ones(2, 1))), (
        "one-hot is that objective alone"
    )
    order = torch.randperm(6, generator=random)
    assert torch.allclose(gains(values[:, order], strengths), found[:, order], atol=1e-6)


@pytest.mark.parametrize(
    "values", [{"beta": -1.0}, {"beta": float("nan")}, {"candidates": 0}, {"candidates": 5000}]
)
def test_settings_out_of_bounds(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        Augmentation(**values)  # type: ignore[arg-type]


class World:
    """Two steps over four tokens: a random frozen policy, two rewards of whole texts, and everything enumerated."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(3)
        self.first = torch.randn(4, generator=random).log_softmax(-1)
        self.second = torch.randn(4, 4, generator=random).log_softmax(-1)
        self.rewards = torch.randn(4, 4, 2, generator=random)
        self.joint = self.first[:, None] + self.second  # log pi_ref(y)
        self.values = (self.second.exp()[..., None] * self.rewards).sum(1)  # V(first token) [4, 2]

    def augmented(self, strengths: Tensor, candidates: int = 4) -> Tensor:
        """Return the probabilities ``[4, 4]`` of texts under value-augmented sampling with exact values."""
        state = torch.arange(4.0)[:, None]
        one = looked_up(self.values[None], candidates)(self.first[None], torch.zeros(1, 1), strengths[None])
        two = looked_up(self.rewards, candidates)(self.second, state, strengths.expand(4, 2))
        return (one.log_softmax(-1)[0][:, None] + two.log_softmax(-1)).exp()

    def optimum(self, strengths: Tensor) -> Tensor:
        """Return pi_ref exp(sum_i b_i r_i) / Z ``[4, 4]`` by brute force over all texts."""
        return (self.joint + self.rewards @ strengths).flatten().softmax(-1).view(4, 4)

    def mean(self, policy: Tensor, strengths: Tensor) -> float:
        return float((policy * (self.rewards @ strengths)).sum())

    def objective(self, policy: Tensor, strengths: Tensor) -> float:
        """Return sum_i b_i E[r_i] - KL(pi || pi_ref)."""
        return self.mean(policy, strengths) - float((policy * (policy.log() - self.joint)).sum())


def test_the_last_token_is_that_of_the_optimum_over_whole_texts() -> None:
    """Behind a first token, the optimum's next token is pi_ref exp(b.r) / Z of that token: exact last values give it."""
    world, strengths = World(), torch.tensor([0.7, 1.1])
    found, best = world.augmented(strengths), world.optimum(strengths)
    conditional = best / best.sum(1, keepdim=True)
    assert torch.allclose(found / found.sum(1, keepdim=True), conditional, atol=1e-6)


def test_the_first_token_is_the_paper_s_approximation_by_brute_force() -> None:
    """Before the last step E[r] stands where the optimum has log E[exp(b.r)], so the first token is pi_ref exp(b.V) / Z."""
    world, strengths = World(), torch.tensor([0.7, 1.1])
    by_hand = [
        float(world.first[v].exp())
        * float((world.second[v].exp() * (world.rewards[v] @ strengths)).sum().exp())
        for v in range(4)
    ]
    assert torch.allclose(world.augmented(strengths).sum(1), torch.tensor(by_hand) / sum(by_hand), atol=1e-6)


def test_small_strengths_reach_the_optimum_to_first_order() -> None:
    """log E[exp(b.r)] = b.V + O(b^2), so the distance from the optimum falls with the square of the strength."""
    world, towards = World(), torch.tensor([0.6, 0.4])
    gaps = [
        float((world.augmented(b * towards) - world.optimum(b * towards)).abs().sum() / 2)
        for b in (0.04, 0.02)
    ]
    assert gaps[0] < 2e-3 and 3.5 < gaps[0] / gaps[1] < 4.5


def test_beta_is_a_dial_between_the_frozen_policy_and_the_best_text() -> None:
    world, towards = World(), torch.tensor([0.6, 0.4])
    means = [world.mean(world.augmented(b * towards), towards) for b in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert means == sorted(means) and means[0] == pytest.approx(world.mean(world.joint.exp(), towards))
    reached = world.objective(world.augmented(towards), towards)
    assert (
        world.objective(world.joint.exp(), towards)
        < reached
        <= world.objective(world.optimum(towards), towards)
    )


def test_fewer_candidates_leave_the_other_tokens_as_they_were() -> None:
    world, strengths = World(), torch.tensor([2.0, 1.0])
    some = looked_up(world.values[None], 2)(world.first[None], torch.zeros(1, 1), strengths[None])[0]
    rest = world.first.topk(4).indices[2:]
    assert torch.equal(some[rest], world.first[rest])
    assert float((some - world.first).sum()) == pytest.approx(0.0, abs=1e-5)


# Decoding


@pytest.fixture(scope="module")
def rescoring(lm: LanguageModel) -> Rescoring:
    start = Values.start(hidden_size(lm.model), 8, ("a", "b"), lm.fingerprint, seed=4)
    random = torch.Generator().manual_seed(5)
    tensors = {**start.tensors, "heads": torch.randn(2, 8, generator=random)}
    values = Values(tensors, start.objectives, start.base)
    return Rescoring(values, lm.model.get_input_embeddings(), 6)


def mixture(rescoring: Rescoring, *strengths: tuple[float, float]) -> Mixture:
    rows = torch.tensor([[1.0, *row] for row in strengths], dtype=torch.float64)
    return Mixture(rows, rescoring=rescoring)


@torch.no_grad()
def decoded_by_hand(
    lm: LanguageModel,
    rescoring: Rescoring,
    prompt: list[int],
    strengths: tuple[float, float],
    seed: int,
    new: int,
) -> list[int]:
    """Return the tokens of a loop without a cache, a batch or a hook."""
    tokens: list[int] = []
    table = lm.model.get_input_embeddings().weight
    for uniform in uniforms(seed, new):
        hidden = lm.model.get_decoder()(torch.tensor([[*prompt, *tokens]])).last_hidden_state[0, -1]
        logits = lm.model.get_output_embeddings()(hidden).float()
        top = logits.argsort(descending=True)[: rescoring.candidates]
        values = torch.stack([rescoring.values(hidden, table[token]) for token in top])
        for i, strength in enumerate(strengths):
            logits[top] += strength * (values[:, i] - values[:, i].mean())
        tokens.append(int(draw(logits[None], uniform[None], 1.0, 1.0)))
        if tokens[-1] in lm.stops:
            break
    return tokens


def test_decoding_is_the_loop_by_hand_in_a_batch_of_different_strengths(
    lm: LanguageModel, rescoring: Rescoring
) -> None:
    prompts = [[3, 8, 9, 5], [3, 10, 5], [3, 8, 9, 5], [3, 12, 13, 14, 5]]
    strengths = [(2.0, 0.0), (0.5, 1.5), (0.0, 0.0), (-1.0, 3.0)]
    sampling, seeds = Sampling(8, batch_size=3), [1, 2, 3, 4]
    found = generate(lm, prompts, sampling, seeds, mixture=mixture(rescoring, *strengths))
    expected = [
        decoded_by_hand(lm, rescoring, *row, 8) for row in zip(prompts, strengths, seeds, strict=True)
    ]
    assert [list(response.tokens) for response in found] == expected
    plain = generate(lm, [prompts[2]], sampling, [3])
    assert found[2].tokens == plain[0].tokens and found[2].logp == pytest.approx(plain[0].logp)
    assert all(response.normalisers == () for response in found)


def test_rows_with_and_without_values_share_a_batch(lm: LanguageModel, rescoring: Rescoring) -> None:
    sampling = Sampling(6)
    valued = Slot([3, 8, 9, 5], sampling, 1, mixture=mixture(rescoring, (3.0, -1.0)))
    rows = [Slot([3, 8, 9, 5], sampling, 1), valued, Slot([3, 10, 5], sampling, 2)]
    batch = Batch(lm, None, rows)
    assert batch.copies == 3, "values run no copy of a row"
    batch.read()
    while batch.rows:
        batch.leave([row for row in batch.rows if row.finished(lm.stops)])
        if batch.rows:
            batch.step()
    for row in (rows[0], rows[2]):
        assert row.tokens == list(generate(lm, [row.prompt], sampling, [row.seed])[0].tokens)
    assert valued.tokens == decoded_by_hand(lm, rescoring, [3, 8, 9, 5], (3.0, -1.0), 1, 6)
