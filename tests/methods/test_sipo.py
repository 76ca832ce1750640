"""SIPO: its fine-tuning loss by hand, and the whole of it on a tiny model with and without survivors."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from paretune.core.errors import ConfigError, PreferenceError, TrainingError
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.generation.generate import Response
from paretune.methods import dpo
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.sipo import method
from paretune.methods.sipo import method as sipo
from paretune.methods.sipo import rounds as self_improve
from paretune.methods.sipo.improve import conflicting_pairs
from paretune.methods.sipo.method import SIPOConfig, sampled_at
from paretune.methods.sipo.rounds import Candidate, Round, Search, candidates, draw, measure
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.packing import pack, packed_logps
from paretune.policies.mixed import MixedPolicy
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.losses import log_ratio_gap, nll_loss, pair_loss
from paretune.training.token_tables import PairTable, tokenise
from support.adapters import TRAINING, adapters_equal
from support.world import make_dataset

OBJECTIVES = ("short", "good")
SAMPLING = Sampling(max_new_tokens=5, temperature=1.0, top_p=0.9, batch_size=16)
DATA = make_dataset(), make_dataset(4, seed=9)
GRID = preference_grid(OBJECTIVES, 2)


# The loss


def refine_loss(logps: torch.Tensor, before: torch.Tensor, lengths: torch.Tensor, beta: float, alpha: float):
    return pair_loss(log_ratio_gap(logps, before), beta) + alpha * nll_loss(logps[:, 0], lengths)


THETA = torch.tensor([[-42.0, -55.5]], dtype=torch.float64)
BEFORE = torch.tensor([[-40.0, -50.0]], dtype=torch.float64)


@pytest.mark.parametrize(("length", "expected"), [(20, 0.7433821554), (64, 0.5990071555)])
def test_loss_by_hand(length: int, expected: float) -> None:
    """z = 0.1 ((-42 + 40) - (-55.5 + 50)) = 0.35; softplus(-0.35) + 0.1 * 42 / |y+|."""
    found = refine_loss(THETA, BEFORE, torch.tensor([length]), 0.1, 0.1)
    assert found.tolist() == pytest.approx([expected], abs=1e-10)


def test_loss_without_imitation_is_dpo_and_starts_at_log_two() -> None:
    dpo_loss = pair_loss(log_ratio_gap(THETA, BEFORE), 0.1)
    assert torch.equal(refine_loss(THETA, BEFORE, torch.tensor([20]), 0.1, 0.0), dpo_loss)
    at_start = refine_loss(BEFORE, BEFORE, torch.tensor([16]), 0.1, 0.1)
    assert at_start.item() == pytest.approx(math.log(2) + 0.1 * 40 / 16, abs=1e-12)


def test_gradients_by_hand() -> None:
    beta, alpha, length = 0.1, 0.3, 20
    logps = THETA.clone().requires_grad_()
    refine_loss(logps, BEFORE, torch.tensor([length]), beta, alpha).sum().backward()
    sigmoid = 1 / (1 + math.exp(0.35))
    assert logps.grad is not None
    assert logps.grad[0].tolist() == pytest.approx(
        [-beta * sigmoid - alpha / length, beta * sigmoid], abs=1e-12
    )


def test_a_wide_neighbour_changes_no_loss(lm: LanguageModel) -> None:
    """The divisor of imitation is the response with its end, whatever else is in the batch."""
    own = ([3, 4, 5], [[6, 7, 8, 2], [9, 2]])
    wide = (list(range(3, 24)), [[11] * 30, [12, 2]])

    def loss(groups: list) -> torch.Tensor:
        batch = pack(groups)
        logps = packed_logps(lm.model, batch).view(-1, 2)
        assert batch.lengths[:2].tolist() == [4, 2]
        return refine_loss(logps, torch.full_like(logps, -20.0), batch.lengths.view(-1, 2)[:, 0], 0.1, 1.0)

    with torch.no_grad():
        torch.testing.assert_close(loss([own, wide])[:1], loss([own]), atol=1e-5, rtol=1e-5)


# Settings


def test_preferences_at_which_responses_are_sampled() -> None:
    def weights(objectives: tuple[str, ...], config: SIPOConfig) -> list[tuple[float, ...]]:
        return [w.weights for w in sampled_at(objectives, preference_grid(objectives, 2), config)]

    assert weights(OBJECTIVES, SIPOConfig()) == [(0.2, 0.8), (0.4, 0.6), (0.6, 0.4), (0.8, 0.2)]
    assert weights(OBJECTIVES, SIPOConfig(weights="run")) == [(0.5, 0.5)]
    assert weights(OBJECTIVES, SIPOConfig(weights=("good=1", "short=0.3,good=0.7"))) == [
        (0.0, 1.0),
        (0.3, 0.7),
    ]
    for M in range(2, 7):
        found = weights(tuple("abcdef"[:M]), SIPOConfig())
        assert len(set(found)) == len(found) >= 4 and min(map(min, found)) > 0
    with pytest.raises(ConfigError, match="no preference of the run gives every objective a weight"):
        sampled_at(OBJECTIVES, preference_grid(OBJECTIVES, 1), SIPOConfig(weights="run"))
    with pytest.raises(PreferenceError, match="kind"):
        sampled_at(OBJECTIVES, GRID, SIPOConfig(weights=("kind=1",)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 0.0},
        {"rate": -1.0},
        {"rounds": 0},
        {"conflicts": 0},
        {"suggestions": 0},
        {"margin": math.nan},
        {"alpha": -0.1},
        {"weights": ()},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} "):
        SIPOConfig(**wrong)


# Parts of a round


def test_keep_or_revert_makes_candidates() -> None:
    """The rewrite of w = 0 gains, that of w = 1 does not; the answer of w = 2 repeats the text of w = 1."""

    def made(w: int, text: str, rewritten: bool) -> Candidate:
        return Candidate(w, text, tuple(map(ord, text)), rewritten)

    answers = {(0, w): made(w, text, False) for w, text in enumerate("abb")}
    rewrites = {(0, w): made(w, text, True) for w, text in enumerate("xy")}
    rewards = [
        {
            (ord(c),): np.array(r)
            for c, r in {"a": (0.0, 0.0), "b": (0.0, 1.0), "x": (1.0, -1.0), "y": (0.0, 0.5)}.items()
        }
    ]
    for keep, texts, kept in (
        ("any_gain", ["x", "b"], 1),
        ("weak_dominance", ["a", "b"], 0),
        ("keep_both", ["a", "x", "b", "y"], 2),
    ):
        counts: Counter[str] = Counter()
        work = SimpleNamespace(config=Search(keep=keep), places={"prompt": 0})
        found = candidates(work, answers, rewrites, rewards, counts)  # type: ignore[arg-type]
        assert [c.text for c in found[0]] == texts
        assert counts["kept"] == kept and counts["rewritten"] == 2 and counts["repeated"] == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder for all tests, so that the DPO adapters are trained once."""
    return tmp_path_factory.mktemp("sipo")


@pytest.fixture
def lab(lm: LanguageModel, folder: Path) -> Lab:
    return Lab(lm, folder, replace(TRAINING, learning_rate=2e-2))


@pytest.fixture
def said(lab: Lab) -> Iterator[list[str]]:
    """Collect what is told to the person at the terminal."""
    messages: list[str] = []
    lab.say = messages.append  # type: ignore[method-assign]
    return messages


def work_of(lab: Lab, pairs: int = 3, sampling: Sampling = SAMPLING) -> Round:
    adapters = dpo.train(Inputs(lab, *DATA), DPOConfig()).adapters
    table, _ = tokenise(lab.lm, conflicting_pairs(DATA[0])[0][:pairs], 64)
    weights = tuple(sampled_at(OBJECTIVES, GRID, SIPOConfig()))
    return Round(lab, 1, table, adapters, weights, sampling, 0.1, Search())


def test_a_killed_draw_goes_on_with_the_next_part(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_of(lab, sampling=replace(SAMPLING, batch_size=1))
    prompts = [row.prompt for row in DATA[1].rows for _ in range(2)][:6]
    weights = [n % 4 for n in range(len(prompts))]
    expected = work.policy.generate(
        prompts, [work.weights[w] for w in weights], work.sampling, list(range(len(prompts)))
    )
    calls: list[int] = []
    generate = MixedPolicy.generate

    def once(self: MixedPolicy, prompts: list, *rest: object) -> list[Response]:
        calls.append(len(prompts))
        if calls == [4, len(prompts)]:
            raise KeyboardInterrupt
        return generate(self, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MixedPolicy, "generate", once)
    with pytest.raises(KeyboardInterrupt):
        draw(work, "killed", work.policy, prompts, weights)
    assert not (lab.folder / "sipo/1-killed").exists()
    found = draw(work, "killed", work.policy, prompts, weights)
    assert calls == [4, 2, 2] and draw(work, "killed", work.policy, prompts, weights) == found
    assert found == [(r.text, r.truncated) for r in expected] and calls == [4, 2, 2]


def test_rewards_in_one_group_equal_rewards_one_by_one(lab: Lab, tmp_path: Path) -> None:
    work = work_of(lab)
    texts = ["good kind", "sun", "red blue moon tree"]
    found = [
        ((p, w), Candidate(w, text, tuple(lab.lm.encode_response(text)), False))
        for p in work.places.values()
        for w, text in enumerate(texts)
    ]
    rewards = measure(work, found)
    before = lab.scoring_forwards
    again = measure(work, found)
    assert lab.scoring_forwards == before, "kept on disk"
    for prompt, p in work.places.items():
        own = [n for n, pair in enumerate(work.table.pairs) if pair.prompt == prompt]
        assert len(rewards[p]) == 3 + len(
            {work.table.chosen[n] for n in own} | {work.table.rejected[n] for n in own}
        )
        for ids, values in rewards[p].items():
            assert np.array_equal(values, again[p][ids])
            alone = Lab(lab.lm, tmp_path / f"{p}-{len(ids)}-{sum(ids)}", lab.training)
            group = [(lab.lm.encode_prompt(prompt), [ids])]
            base = float(alone.response_logps(group)[0])
            single = [0.1 * (float(alone.response_logps(group, a)[0]) - base) for a in work.adapters]
            assert values.tolist() == pytest.approx(single, abs=1e-4)


# The whole


def test_no_survivor_leaves_the_policies_of_before(lab: Lab, said: list[str]) -> None:
    policy = sipo.train(
        Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(refine=False, margin=1e9, rounds=2)
    )
    before = len(lab.stages)
    plain = dpo.train(Inputs(lab, *DATA), DPOConfig())
    assert all(stage.reused for stage in lab.stages[before:]), "the same stages as those of methods/dpo.py"
    assert policy.kind == "mod" and all(map(adapters_equal, policy.adapters, plain.adapters))
    assert "round 1: no response is better than both" in said[-1] and "policies of before stay" in said[-1]
    found = json.loads((lab.folder / "sipo/1-improved.json").read_text())
    conflicts, decided = conflicting_pairs(DATA[0])
    counts = found["retention"]
    assert (counts["pairs"], counts["conflicts"], counts["survivors"]) == (decided, len(conflicts), 0)
    assert counts["sampled"] == 4 * len({pair.prompt for pair in conflicts}) and found["pairs"] == []
    drawn = json.loads((lab.folder / "sipo/1-samples/responses.json").read_text())
    assert len(drawn) == counts["sampled"] and not (lab.folder / "sipo/2-samples").exists()


def test_without_conflicts_there_is_nothing_to_improve(
    lab: Lab, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "conflicting_pairs", lambda dataset: ([], 7))
    policy = sipo.train(Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(serve="soup"))
    assert "conflict on none of the 7 pairs" in said[-1]
    assert policy.kind == "soup" and [a.info["method"] for a in policy.adapters] == ["dpo", "dpo"]


Drawn = list[tuple[str, bool]]
ANSWERS = ["good", "good kind", "good good sun", ""]
REWRITES = ["kind", "good good", "good good good good"]


def written(reviews: str) -> Callable[..., Drawn]:
    """Return a draw that writes what a model would, with an empty answer, a cut one and, in turn, reviews without a list."""

    def draw(work: Round, stage: str, policy: Policy, prompts: list, weights: list[int]) -> Drawn:
        assert work.sampling.temperature == 0 and work.sampling.max_new_tokens == 5
        if stage == "samples":
            return [(ANSWERS[w], n == 1) for n, w in enumerate(weights)]
        if stage == "reviews":
            assert all("short and good" in prompt[0].content for prompt in prompts)
            return [(reviews if n % 3 else "nothing", False) for n in range(len(prompts))]
        assert stage == "rewrites" and all("1. Be kind." in prompt[0].content for prompt in prompts)
        return [(REWRITES[w], False) for w in weights]

    return draw


def test_survivors_train_every_policy_from_itself(
    lab: Lab, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds: counts add up, the fine-tuning starts at its own reference, and a second call does nothing again."""
    monkeypatch.setattr(self_improve, "draw", written("1. Be kind."))
    config = SIPOConfig(conflicts=8, rounds=2, steps=2, rate=0.5, least=50)
    tables: dict[str, PairTable] = {}
    fit = lab.fit_pairs

    def note(name: str, table: PairTable, *rest: object, **options: object) -> Adapter:
        tables[name] = table
        return fit(name, table, *rest, **options)  # type: ignore[arg-type]

    lab.fit_pairs = note  # type: ignore[method-assign]
    policy = sipo.train(Inputs(lab, *DATA, GRID, sampling=SAMPLING), config)
    assert policy.kind == "mod" and policy.name == "sipo"
    short, good = tables["sipo-1-short"], tables["sipo-1-good"]
    assert str(short.pairs) == str(good.pairs) and not torch.equal(short.reference, good.reference)
    counts, prompts = policy.adapters[0].info["retention"], 8
    assert [a.info["retention"] for a in policy.adapters] == [counts, counts]
    assert [(a.info["objective"], a.info["round"], a.info["method"]) for a in policy.adapters] == [
        ("short", 2, "sipo"),
        ("good", 2, "sipo"),
    ]
    assert counts["taken"] == 8 and counts["sampled"] == 4 * prompts
    assert counts["empty"] == prompts and counts["cut"] == 1, (
        "one answer of each prompt, and the second of the first"
    )
    assert counts["unread"] == 8 and counts["rewritten"] == 3 * prompts - 1 - 8
    assert 0 <= counts["kept"] <= counts["rewritten"] and 0 < counts["survivors"] <= 8
    found = json.loads((lab.folder / "sipo/2-improved.json").read_text())
    assert len(found["pairs"]) == counts["survivors"]
    texts = [pair["improved"] for pair in found["pairs"]]
    assert set(texts) <= {*ANSWERS[:3], *REWRITES}
    mean = sum(len(lab.lm.encode_response(text)) for text in texts) / len(texts)
    assert policy.adapters[0].info["mean_tokens"]["improved"] == pytest.approx(mean)
    assert policy.adapters[0].info["pairs"] == min(4, 2 * counts["survivors"]), "what two steps draw"
    assert any(f"only {counts['survivors']} pairs" in message for message in said)
    plain = dpo.train(Inputs(lab, *DATA), DPOConfig())
    assert not any(map(adapters_equal, policy.adapters, plain.adapters))
    for number in (1, 2):
        for objective in OBJECTIVES:
            history = json.loads(
                (lab.folder / f"adapters/sipo-{number}-{objective}/history.json").read_text()
            )
            assert len(history) == 2 and history[0]["learning_rate"] == pytest.approx(0.5 * 2e-2)
            assert history[0]["rewards/margins"] == pytest.approx(0, abs=1e-4), "it starts at its reference"
            assert history[0]["loss"] > math.log(2) - 1e-4, "imitation adds to DPO's log 2"
    again = Lab(lab.lm, lab.folder, lab.training)
    again.say = said.append  # type: ignore[method-assign]
    second = sipo.train(Inputs(again, *DATA, GRID, sampling=SAMPLING), config)
    assert all(stage.reused for stage in again.stages) and again.scoring_forwards == 0
    assert all(map(adapters_equal, second.adapters, policy.adapters))


def test_reviews_without_a_suggestion_stop_the_stage(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_improve, "draw", written("It is fine."))
    with pytest.raises(
        TrainingError, match=r"sipo/1-reviews: none of \d+ reviews .* 'nothing'; .*refine=false"
    ):
        sipo.train(Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(conflicts=2))


def test_the_base_model_may_review(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    reviewers = []
    write = written("1. Be kind.")

    def note(work: Round, stage: str, policy: Policy, *rest: list) -> Drawn:
        reviewers.append((stage, policy.kind))
        return write(work, stage, policy, *rest)

    monkeypatch.setattr(self_improve, "draw", note)
    sipo.train(
        Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(conflicts=2, reviewer="base", margin=1e9)
    )
    assert reviewers == [("samples", "mod"), ("reviews", "base"), ("rewrites", "mod")]


def test_a_run_without_greedy_samples_as_it_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(work: Round, stage: str, policy: Policy, prompts: list, weights: list[int]) -> Drawn:
        seen.append(work.sampling)
        return [("", False)] * len(prompts)

    monkeypatch.setattr(self_improve, "draw", note)
    sipo.train(Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(conflicts=2, greedy=False))
    sipo.train(Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(conflicts=2))
    assert seen == [SAMPLING, replace(SAMPLING, temperature=0.0, top_p=1.0)], "no text, so no review either"


def test_templates_are_checked_before_training(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("review: '{question}'\nrewrite: '{question}'\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: the template 'review' has no field \{answer\}"):
        sipo.train(
            Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(templates=str(tmp_path / "mine.yaml"))
        )
    assert not lab.stages


def test_any_policy_of_it_answers(lab: Lab) -> None:
    """The mixture at a corner is that objective's policy."""
    policy = sipo.train(Inputs(lab, *DATA, GRID, sampling=SAMPLING), SIPOConfig(refine=False, margin=1e9))
    corner = Preference.one_hot("good", OBJECTIVES)
    single = Policy.anchors("one", lab.lm, OBJECTIVES, [policy.adapters[1]], [corner])
    prompt = [DATA[1].rows[0].prompt]
    assert policy.effective(corner) == single.effective(corner)
    assert (
        policy.generate(prompt, [corner], SAMPLING, [3])[0].tokens
        == single.generate(prompt, [corner], SAMPLING, [3])[0].tokens
    )
