"""Principles in words: the texts, what is refused, and linear alignment against a loop written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.errors import ConfigError, ModelError, PreferenceError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.generation.batch import Batch, Slot
from paretune.generation.mixing import Mixture, Nucleus, contrast, likeliest, mix
from paretune.models.language_model import LanguageModel
from paretune.policies.alike import alike
from paretune.policies.policy import Policy
from paretune.policies.principled import PrincipledPolicy
from paretune.policies.principles import Guidance, Principles
from paretune.serving.config import EngineLimits
from paretune.serving.engine.admission import Intake
from paretune.serving.events import Job
from support.world import make_dataset

OBJECTIVES = ("short", "good")
WORDS = {"short": "red", "good": "good kind good"}
GREEDY = Sampling(max_new_tokens=6, temperature=0.0, batch_size=3)
ASKED = (Message("user", "sun moon"),)
HALF, LEFT = Preference.uniform(OBJECTIVES), Preference.one_hot("short", OBJECTIVES)


def guided(lm: LanguageModel, strength: float = 3.0, **words: str) -> PrincipledPolicy:
    words_ = Principles(WORDS, **words)  # type: ignore[arg-type]
    return PrincipledPolicy.of("guided", lm, OBJECTIVES, words_, Guidance(strength, Nucleus(0.8, 1.0)))


# The words


def test_one_principle_is_written_as_it_is_and_several_with_their_shares() -> None:
    words = Principles({"short": "Be brief."})
    assert words.words(LEFT) == "Be brief."
    assert words.words(Preference.parse("short=0.7,good=0.3")) == (
        "Follow these principles. The number before each is its share of 100:\n"
        "- 70: Be brief.\n- 30: Your answer should be good."
    )
    assert words.words(Preference.parse("short=0.997,good=0.003")) == "Be brief."
    assert words.unnamed(OBJECTIVES) == {"good": "Your answer should be good."}


def test_the_providers_words_have_a_field_of_their_own_and_hold_without_a_principle() -> None:
    words = Principles({"short": "Be brief."}, provider="Never swear.")
    system, user = words.prompt(ASKED, words.words(LEFT))
    assert system == Message("system", "System Info:\nNever swear.\n\nUser Info:\nBe brief.")
    assert user == ASKED[0], "what the user says stands apart from both"
    assert words.prompt(ASKED, "")[0].content == "System Info:\nNever swear."
    assert Principles().prompt(ASKED, "") == ASKED


def test_a_system_message_of_the_conversation_stays() -> None:
    system = Message("system", "You are a sailor.")
    asked = Principles().prompt((system, *ASKED), "Be brief.")
    assert [m.content for m in asked] == ["You are a sailor.\n\nBe brief.", "sun moon"]
    (turn,) = Principles(place="user").prompt(ASKED, "Be brief.")
    assert turn == Message("user", "sun moon\n\nBe brief.")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"principles": {"short": "  "}},
            r"principles.short: expected a sentence, such as 'Be brief.', got '  '",
        ),
        (
            {"principles": {"short": "a\nUser Info: b"}},
            "keep the provider's words apart from the user's; word it otherwise",
        ),
        ({"provider": "System Info: x"}, "provider: a line begins with 'System Info:'"),
        ({"provider": "x", "place": "user"}, "leave provider out, or set place: system"),
    ],
)
def test_words_that_would_not_do_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Principles(**settings)


def test_a_principle_of_no_objective_and_numbers_out_of_bounds_are_refused(lm: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="principles: unknown objective 'god'; did you mean 'good'"):
        Policy.principled("words", lm, OBJECTIVES, Principles({"god": "x"}))
    with pytest.raises(ConfigError, match="strength must be above 0, got 0"):
        Guidance(0.0)
    with pytest.raises(ConfigError, match=r"top_p must be above 0 and at most 1, got 1.5"):
        Nucleus(1.5)


# The mathematics


def test_the_coefficients_are_the_released_ones_at_a_corner_and_sum_to_one() -> None:
    corner, half = contrast(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), 3.0).tolist()
    assert corner == [-3.0, 4.0, 0.0], "(1 + k) l_with - k l_without with k = 3"
    assert half == [-3.0, 2.0, 2.0]


def test_worked_numbers_of_a_step() -> None:
    """One principle: l_with = log (.5, .3, .2), l_without = log (.2, .6, .2), k = 1: .25/.2, .09/.6, .04/.2 inside the nucleus."""
    logits = torch.tensor([[0.2, 0.6, 0.2], [0.5, 0.3, 0.2]]).log()
    rows, kinds = torch.tensor([0, 0]), torch.tensor([0, 1])

    def step(top_p: float) -> list[float]:
        mixture = Mixture(contrast(torch.ones(1, 1), 1.0), nucleus=Nucleus(top_p, 1.0))
        mixed, log_z = mix(logits, rows, kinds, mixture)
        assert float(log_z[0]) == pytest.approx(0, abs=1e-6), "one principle does not conflict with itself"
        return mixed.softmax(-1)[0].tolist()

    assert step(1.0) == pytest.approx([1.25 / 1.6, 0.15 / 1.6, 0.2 / 1.6])
    assert step(0.8) == pytest.approx([1.25 / 1.4, 0.15 / 1.4, 0.0])
    assert step(0.5) == pytest.approx([1.0, 0.0, 0.0])


def test_several_principles_choose_inside_the_nucleus_of_their_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 9, generator=generator)
    weights, k = torch.tensor([[0.3, 0.7]]), 2.0
    mixture = Mixture(contrast(weights, k), nucleus=Nucleus(0.6, 0.5))
    mixed, log_z = mix(logits, torch.zeros(3, dtype=torch.long), torch.arange(3), mixture)
    base, one, two = logits.log_softmax(-1)
    mean = 0.3 * one + 0.7 * two
    allowed = likeliest(mean[None] / 0.5, 0.6)[0]
    by_hand = base + (1 + k) * (0.3 * (one - base) + 0.7 * (two - base))
    expected = by_hand.masked_fill(~allowed, -torch.inf).softmax(-1)
    torch.testing.assert_close(mixed[0].softmax(-1), expected, atol=1e-6, rtol=1e-5)
    assert float(log_z[0]) == pytest.approx(float(mean.logsumexp(-1)), abs=1e-6) and float(log_z[0]) < 0
    assert 0 < int(allowed.sum()) < 9


def test_the_nucleus_is_the_smallest_set_that_reaches_its_probability() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert likeliest(logits, 0.65).tolist() == [[False, True, False, True]]
    assert likeliest(logits, 0.75).tolist() == [[False, True, True, True]]
    assert likeliest(logits, 1e-9).tolist() == [[False, True, False, False]], "never empty"
    assert likeliest(logits, 1.0).all()


# The policy


@pytest.mark.parametrize("preference", [HALF, LEFT, Preference.parse("short=0.2,good=0.8")], ids=str)
def test_decoding_is_the_loop_by_hand(lm: LanguageModel, preference: Preference) -> None:
    """Copies read prompts of different lengths, and each token is the likeliest of the combined distribution."""
    policy = guided(lm, provider="blue")
    weights = preference.over(OBJECTIVES).as_dict()
    tokens: list[int] = []
    for _ in range(GREEDY.max_new_tokens):

        def logps(words: str, so_far: list[int] = tokens) -> torch.Tensor:
            ids = lm.encode_prompt(policy.principles.prompt(ASKED, words)) + so_far
            return lm.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)

        with torch.no_grad():
            base, mean = logps(""), sum(w * logps(WORDS[name]) for name, w in weights.items() if w)
        allowed = likeliest(mean[None], 0.8)[0]
        tokens.append(int((base + 4 * (mean - base)).masked_fill(~allowed, -torch.inf).argmax()))
        if tokens[-1] in lm.stops:
            break
    (answer,) = policy.generate([ASKED], [preference], GREEDY)
    assert list(answer.tokens) == tokens
    behind = policy.distribution_behind(ASKED, answer.tokens, preference)
    total = behind.gather(-1, torch.tensor(answer.tokens)[:, None]).sum()
    assert float(total) == pytest.approx(answer.logp, abs=1e-3)


def test_rows_of_different_policies_decode_together_and_leave(lm: LanguageModel) -> None:
    """Rows with one prompt and rows with several, long and short, share a batch and answer as they do alone."""
    policy, plain = guided(lm), Policy.principled("words", lm, OBJECTIVES, Principles(WORDS))
    intake = Intake.of(
        {"guided": policy, "words": plain, "base": Policy.base(lm, OBJECTIVES)}, EngineLimits()
    )
    sampling = replace(GREEDY, temperature=1.0)

    def rows() -> list[Slot]:
        prompts = [row.prompt for row in make_dataset(3, seed=2).rows]
        jobs = [
            Job(name, prompt, preference, sampling, seed)
            for seed, (name, prompt, preference) in enumerate(
                zip(["guided", "words", "base"], prompts, [HALF, HALF, LEFT], strict=True)
            )
        ]
        return [row for job in jobs for row in intake.rows(job)]

    def decoded(some: list[Slot]) -> list[list[int]]:
        batch = Batch(lm, None, some)
        batch.read()
        while batch.rows:
            batch.leave([row for row in batch.rows if row.finished(lm.stops)])
            if batch.rows:
                batch.step()
        return [row.tokens for row in some]

    together = decoded(rows())
    assert together == [decoded([row])[0] for row in rows()]
    prompts = [row.prompt for row in make_dataset(3, seed=2).rows]
    assert together[0] == list(policy.generate([prompts[0]], [HALF], sampling, [0])[0].tokens)
    assert together[1] == list(plain.generate([prompts[1]], [HALF], sampling, [1])[0].tokens)


def test_a_prompt_that_is_plain_text_gets_the_words_too(lm: LanguageModel) -> None:
    for place, text in (("system", "red\n\nsun moon"), ("user", "sun moon\n\nred")):
        policy = Policy.principled("words", lm, OBJECTIVES, Principles(WORDS, place=place))  # type: ignore[arg-type]
        (row,) = Intake.of({"words": policy}, EngineLimits()).rows(Job("words", "sun moon", LEFT, GREEDY, 0))
        assert list(row.prompt) == lm.encode_text(text) and not row.prompts
    (row,) = Intake.of({"g": guided(lm)}, EngineLimits()).rows(Job("g", "sun moon", LEFT, GREEDY, 0))
    assert [list(ids) for ids in row.prompts] == [
        lm.encode_text("sun moon"),
        lm.encode_text("red\n\nsun moon"),
    ]


def test_it_is_saved_and_loaded(lm: LanguageModel, tmp_path: Path) -> None:
    for number, policy in enumerate(
        [guided(lm, 2.0, provider="blue"), Policy.principled("words", lm, OBJECTIVES, Principles(WORDS))]
    ):
        policy.save(tmp_path / str(number))
        loaded = Policy.load(tmp_path / str(number), lm)
        for preference in (HALF, LEFT):
            assert loaded.effective(preference) == policy.effective(preference)
            assert loaded.generate([ASKED], [preference], GREEDY) == policy.generate(
                [ASKED], [preference], GREEDY
            )


def test_preferences_of_the_same_words_are_alike_and_others_are_not(lm: LanguageModel) -> None:
    near = Preference.parse("short=0.501,good=0.499")
    plain = Policy.principled("words", lm, OBJECTIVES, Principles(WORDS))
    assert alike(plain, [HALF, LEFT]) == [] and alike(plain, [HALF, near, LEFT]) == [[HALF, near]]
    assert alike(guided(lm), [HALF, near, LEFT]) == [], "weights are exact where logits are combined"


def test_what_words_cannot_do_is_said(lm: LanguageModel) -> None:
    policy = guided(lm)
    beyond = Preference.of({"good": 1.5, "short": -0.5}, OBJECTIVES, allow_extrapolation=True)
    with pytest.raises(PreferenceError, match="answers with words that ask for the objectives"):
        policy.generate([ASKED], [beyond], GREEDY)
    with pytest.raises(ModelError, match="reads a prompt of its own for each principle"):
        policy.logps([([3, 4], [[5]])], [HALF])
    with pytest.raises(ModelError, match="reads a prompt of its own for each principle"):
        policy.distribution([3, 4], [5], HALF)
