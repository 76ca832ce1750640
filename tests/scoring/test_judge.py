"""Judges by a rubric: how answers are read, both orders of a pair, failures that are never a score, and what is asked only once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import ConfigError, EndpointError, ScoreError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import pairs
from paretune.data.rows import Message, Row
from paretune.scoring.cache import ScoreCache
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.pair_labels import compared_pairs, label_dataset
from paretune.scoring.rubric import Rubric, read_rubric
from paretune.scoring.scorer import build_scorer, score_texts
from paretune.scoring.usage import Prices, Usage, in_words, prices_of
from support.endpoint_server import Server, completion, impatient, serving  # noqa: F401 - a fixture

PROMPT = (Message("user", "How are you?"),)
RUBRIC = "A good answer is kind.\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rubric(tmp_path: Path) -> str:
    file = tmp_path / "kind.md"
    file.write_text(RUBRIC)
    return str(file)


def said(body: dict) -> str:
    """The response that a question is about."""
    return body["messages"][-1]["content"].split("<answer>\n")[1].split("\n</answer>")[0]


def answers(body: dict) -> tuple[str, str]:
    """The two responses that a question is about, in order."""
    text = body["messages"][-1]["content"]
    first, second = (text.split(f"<answer_{n}>\n")[1].split(f"\n</answer_{n}>")[0] for n in "AB")
    return first, second


def spoken(text: str, read: int = 100, written: int = 10) -> tuple[int, dict, bytes]:
    whole = json.loads(completion(text))
    whole["usage"] = {"prompt_tokens": read, "completion_tokens": written}
    return 200, {}, json.dumps(whole).encode()


@pytest.fixture
def judging() -> Iterator[Callable[[Callable[[dict], str]], Server]]:
    """Starts a server whose answer to a question a function gives."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(reply: Callable[[dict], str]) -> Server:
            return stack.enter_context(serving(Server(lambda body, k: spoken(reply(body)) if body else None)))

        yield start


def judge(rubric: str, server: Server, **options: object) -> FunctionScorer:
    spec = {"objective": "kind", "judge": rubric, "model": "tiny", "url": server.url, "retries": 1}
    return build_scorer({**spec, **options})


def rated(scorer: FunctionScorer, *responses: str, cache: ScoreCache | None = None) -> list[float]:
    return score_texts(scorer, [PROMPT] * len(responses), responses, cache=cache, leave_out=True).tolist()


# Rubrics


def test_a_rubric_is_markdown_with_settings_or_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "---\nscale: [0, 5]\nsystem: Be strict.\n---\n# Kindness\n\n---\nof words\n"
    )
    (tmp_path / "b.yaml").write_text(
        "rubric: |\n  Kindness\nscale: [-1, 1]\ndecimals: true\ncompare: Ignore length.\n"
    )
    (tmp_path / "c.md").write_text("Kindness")
    a, b, c = (read_rubric(str(tmp_path / name)) for name in ("a.md", "b.yaml", "c.md"))
    assert (a.text, a.low, a.high, a.system) == ("# Kindness\n\n---\nof words", 0, 5, "Be strict.")
    assert (b.text, b.low, b.high, b.decimals, b.compare) == ("Kindness", -1, 1, True, "Ignore length.")
    assert (c.low, c.high, c.decimals, c.system) == (1, 10, False, "")
    assert len({a.fingerprint, b.fingerprint, c.fingerprint}) == 3
    assert [m.role for m in a.rating(PROMPT, "fine", False)] == ["system", "user"]
    question = b.comparison(PROMPT, ("one", "two"), (False, True))[-1].content
    assert "Ignore length." in question and "user: How are you?" in question
    assert question.index("one") < question.index("two") < question.index("cut off by a limit")
    assert "cut off" not in b.rating(PROMPT, "fine", False)[-1].content


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.md", "", "the rubric is empty"),
        ("a.md", "---\nscale: [1, 5]\n---\n  \n", "the rubric is empty"),
        ("a.md", "---\nscale: [5, 1]\n---\nx", r"scale: \[5, 1\]: expected the lowest and the highest"),
        ("a.md", "---\nscale: high\n---\nx", "scale: 'high'"),
        ("a.md", "---\nscales: [1, 5]\n---\nx", "unknown setting 'scales': did you mean 'scale'"),
        ("a.md", "---\nrubric: x\n---\nx", "rubric: in a Markdown file the rubric is the text below"),
        ("a.md", "---\n[1\n---\nx", "not valid YAML"),
        ("a.yaml", "- x", "expected settings with the text under rubric"),
        ("a.yaml", "rubric: x\ndecimals: 1", "decimals: 1: expected true or false"),
        ("a.yaml", "rubric: 3", "rubric: 3: expected text"),
    ],
)
def test_rubrics_that_cannot_be(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"judge: .*{name}: {message}"):
        read_rubric(str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"cannot read the rubric"):
        read_rubric(str(tmp_path / "none.md"))


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Score: 7", 7),
        ("**Score:** 8/10", 8),
        ("It is kind.\n\nScore: 3\nNo, better:\nScore: **4**.", 4),
        ("score = 2", 2),
        ('{"score": 9}', 9),
        ("The score is 6.", 6),
        (" **5** ", 5),
        ("10/10", 10),
        ("<think>Score: 1, or Score: 2?</think>Score: 3", 3),
    ],
)
def test_grades_that_can_be_read(text: str, grade: float) -> None:
    assert Rubric("x").grade(text) == grade


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is kind.",
        "Score: 11",
        "Score: 0",
        "Score: 7.5",
        "Score: 4/5",
        "Score: high",
        "<think>Score: 3",
        "7 or 8",
    ],
)
def test_grades_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"it states no score|its score|it grades out of"):
        Rubric("x").grade(text)


def test_a_scale_with_decimals() -> None:
    assert Rubric("x", -1, 1, True).grade("Score: -0.5") == -0.5


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Verdict: A", 1),
        ("**Verdict:** [B]", -1),
        ("Verdict: tie", 0),
        ("Verdict: A\n...\nVerdict: B", -1),
        ("tie.", 0),
        ("Verdict: answer A", 1),
        ("b", -1),
    ],
)
def test_verdicts_that_can_be_read(text: str, verdict: int) -> None:
    assert Rubric("x").verdict(text) == verdict


@pytest.mark.parametrize("text", ["", "Both are fine", "Verdict: both", "Verdict: C", "A or B"])
def test_verdicts_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="it states no verdict"):
        Rubric("x").verdict(text)


# Grades


def test_a_judge_behind_a_server_grades(judging: Callable, rubric: str) -> None:
    server = judging(lambda body: f"Well.\nScore: {len(said(body))}")
    scorer = judge(rubric, server, prices={"input": 1.0, "output": 10.0})
    assert rated(scorer, "ab", "abcd", "ab") == [2, 4, 2]
    (first, _) = sorted(server.bodies, key=said)
    assert first["model"] == "tiny" and first["temperature"] == 0 and first["max_tokens"] == 512
    assert (
        RUBRIC.strip() in first["messages"][0]["content"]
        and "from 1 (worst) to 10 (best)" in first["messages"][0]["content"]
    )
    usage = scorer.usage
    assert (usage.asked, usage.kept, usage.unread, usage.input_tokens, usage.output_tokens) == (
        2,
        0,
        0,
        200,
        20,
    )
    assert in_words(usage, scorer.prices) == "2 answers, 200 tokens read and 20 written, 0.00 USD"
    assert scorer.judge == f"tiny at {server.url} by kind.md"
    assert rated(judge(rubric, server, direction="lower"), "ab") == [-2]
    assert len(server.bodies) == 2, "an answer that is kept was asked for again"


def test_more_keys_of_a_request(judging: Callable, rubric: str) -> None:
    server = judging(lambda body: "Score: 1")
    body = {"reasoning_effort": "low", "max_tokens": None, "max_completion_tokens": 9}
    rated(judge(rubric, server, body=body), "a")
    (sent,) = server.bodies
    assert (
        "max_tokens" not in sent and sent["max_completion_tokens"] == 9 and sent["reasoning_effort"] == "low"
    )


def test_an_answer_that_cannot_be_read_is_asked_for_again(judging: Callable, rubric: str) -> None:
    server = judging(lambda body: "Score: 5" if body["temperature"] else "I like it.")
    scorer = judge(rubric, server)
    assert rated(scorer, "a") == [5]
    assert [(b["temperature"], b["seed"]) for b in server.bodies] == [(0, 0), (0.7, 1)]
    assert scorer.usage.unread == 0 and scorer.usage.asked == 2


def test_no_grade_is_no_score(judging: Callable, rubric: str, tmp_path: Path) -> None:
    """Failures are counted and named, the others are kept, and nothing is 0."""
    server = judging(lambda body: "I cannot say." if "x" in said(body) else "Score: 3")
    kept = ScoreCache(tmp_path / "scores.sqlite")
    scorer = judge(rubric, server, tries=2)
    with pytest.raises(ScoreError) as failed:
        rated(scorer, "a", "bx", "c", "dx", cache=kept)
    assert "2 of 4 responses got no score" in str(failed.value) and "raise tries" in str(failed.value)
    assert "row 1: the answer of tiny cannot be read: it states no score, but 'I cannot say.'" in str(
        failed.value
    )
    assert len(kept) == 2 and scorer.usage.unread == 2 and scorer.usage.asked == 6
    found = rated(judge(rubric, server, tries=2, unscored="leave-out"), "a", "bx", "c", "dx")
    assert np.isnan(found).tolist() == [False, True, False, True] and found[0] == found[2] == 3
    assert len(server.bodies) == 6, "what is known was asked for again"


def test_a_stopped_judge_goes_on_where_it_was(rubric: str) -> None:
    """A server breaks down in the middle: the answers so far are kept, and only the others are asked for."""
    broken = True

    def behave(body: dict, k: int):
        if broken and said(body) in ("c", "d"):
            return 500, {}, b"down"
        return spoken("Score: 2")

    with serving(Server(behave)) as server:
        with pytest.raises(ScoreError, match=r"2 of 4 responses got no score.*500"):
            rated(judge(rubric, server, concurrency=1, retries=0), "a", "b", "c", "d")
        broken, before = False, len(server.bodies)
        scorer = judge(rubric, server, concurrency=1, retries=0)
        assert rated(scorer, "a", "b", "c", "d") == [2, 2, 2, 2]
        assert sorted(said(body) for body in server.bodies[before:]) == ["c", "d"]
        assert (scorer.usage.asked, scorer.usage.kept) == (2, 2)


def test_a_judge_that_cannot_be_used_is_one_message(rubric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Server(lambda body, k: (401, {}, b"{}"))) as server:
        with pytest.raises(EndpointError, match=r"401.*PARETUNE_JUDGE_KEY is missing"):
            rated(judge(rubric, server), "a")
        monkeypatch.setenv("MY_KEY", "abc")
        with pytest.raises(EndpointError, match=r"MY_KEY is refused"):
            rated(judge(rubric, server, key="MY_KEY"), "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model: is empty"),
        ({"url": "nowhere"}, "'nowhere' is no address"),
        ({"quantization": "int2"}, "quantization: 'int2'"),
        ({"device": "cpu", "across_prompts": "no"}, "across_prompts: 'no': expected true or false"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"pairs": -1}, "pairs must be at least 0"),
        ({"prices": {"inputs": 1}}, "prices: unknown key 'inputs': did you mean 'input'"),
        ({"prices": {"input": -1}}, "prices: input: -1: expected a number of at least 0"),
        ({"prices": 3}, "prices: 3"),
        ({"max_new_tokens": 1.5}, "max_new_tokens: expected a whole number"),
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"url": "", "body": {"a": 1}}, "body: belongs to a judge behind a server"),
        ({"unscored": "zero"}, "unscored: 'zero'"),
        ({"judges": 3}, "unknown key 'judges'"),
    ],
)
def test_settings_that_cannot_be(rubric: str, options: dict, message: str) -> None:
    spec = {"objective": "kind", "judge": rubric, "model": "tiny", "url": "http://127.0.0.1:80/v1"}
    with pytest.raises(ConfigError, match=message):
        build_scorer({**spec, **options})


def test_another_rubric_or_model_is_another_scorer(rubric: str, tmp_path: Path) -> None:
    def mark(**options: object) -> str:
        spec = {"objective": "kind", "judge": rubric, "model": "tiny", "url": "http://a/v1"}
        return build_scorer({**spec, **options}).fingerprint

    other = tmp_path / "other.md"
    other.write_text("Short is good.")
    assert (
        len({mark(), mark(judge=str(other)), mark(model="big"), mark(direction="lower"), mark(tries=1)}) == 5
    )
    assert mark(url="http://b/v1") == mark() == mark(prices={"input": 3}), (
        "neither address nor price decides a score"
    )


# Pairs


def longest(body: dict) -> str:
    first, second = answers(body)
    return (
        "Verdict: tie"
        if len(first) == len(second)
        else f"Verdict: {'A' if len(first) > len(second) else 'B'}"
    )


def labelled(scorer: FunctionScorer, *responses: str) -> tuple[ScoredDataset, int]:
    return label_dataset(ScoredDataset((), (Row(PROMPT, responses),)), scorer)


def test_pairs_are_compared_in_both_orders(judging: Callable, rubric: str) -> None:
    server = judging(longest)
    scorer = judge(rubric, server, pairs=3)
    data, missing = labelled(scorer, "a", "bbb", "cc", "d")
    # Neighbours first: of six pairs three are compared, each in both orders.
    assert data.rows[0].labels["kind"] == ((0, 1, -1.0), (1, 2, 1.0), (2, 3, 1.0)) and not missing
    assert data.objectives == ("kind",) and not data.rows[0].scores
    assert len(server.bodies) == 6 and (scorer.usage.compared, scorer.usage.turned) == (3, 0)
    assert {(p.chosen, p.rejected) for p in pairs(data, "kind", "all")} == {
        ("bbb", "a"),
        ("bbb", "cc"),
        ("cc", "d"),
    }
    lower, _ = labelled(judge(rubric, server, pairs=1, direction="lower"), "a", "bbb")
    assert lower.rows[0].labels["kind"] == ((0, 1, 1.0),)


def test_a_judge_that_prefers_the_first_place_has_no_preference(judging: Callable, rubric: str) -> None:
    server = judging(lambda body: "Verdict: A")
    scorer = judge(rubric, server, pairs=1)
    data, missing = labelled(scorer, "a", "b")
    assert data.rows[0].labels["kind"] == ((0, 1, 0.0),) and not missing
    assert (scorer.usage.compared, scorer.usage.turned) == (1, 1)
    assert "1 of 1 pairs were judged otherwise in the other order" in in_words(scorer.usage)


def test_a_tie_in_one_order_is_half_a_preference(judging: Callable, rubric: str) -> None:
    server = judging(lambda body: "Verdict: A" if answers(body)[0] == "a" else "Verdict: tie")
    data, _ = labelled(judge(rubric, server, pairs=1), "a", "b")
    assert data.rows[0].labels["kind"] == ((0, 1, 0.5),)


def test_a_pair_without_a_verdict_has_no_label(judging: Callable, rubric: str) -> None:
    server = judging(lambda body: "Who knows" if answers(body)[0] == "b" else longest(body))
    scorer = judge(rubric, server, pairs=9, tries=1)
    data, missing = labelled(scorer, "aa", "b", "ccc")
    assert data.rows[0].labels["kind"] == ((0, 2, -1.0),) and missing == 2
    assert scorer.usage.unread == 2 and scorer.usage.compared == 1
    with pytest.raises(ScoreError, match=r"none of 1 pairs got a verdict from tiny at .* look at its rubric"):
        labelled(judge(rubric, judging(lambda body: "Hm"), pairs=1, tries=1), "x", "y")
    with pytest.raises(ScoreError, match="compares no pairs"):
        labelled(judge(rubric, server), "x", "y")


def test_equal_texts_are_not_compared() -> None:
    assert compared_pairs(Row(PROMPT, ("a", "a", "b")), 9) == [(1, 2), (0, 2)]


# A judge here


def test_the_same_rubric_through_a_model_here(
    tmp_path: Path, rubric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paretune.generation import generate as sampling
    from paretune.scoring.scorer import release
    from support.world import write_model

    model = write_model(tmp_path / "model", words=["Score:", "5", "Verdict:", "A", "B", "tie"])
    spec = {
        "objective": "kind",
        "judge": rubric,
        "model": str(model),
        "max_new_tokens": 4,
        "temperature": 1.0,
    }
    scorer = build_scorer({**spec, "tries": 2, "unscored": "leave-out"})
    asked: list[int] = []
    plain = sampling.generate
    monkeypatch.setattr(
        sampling,
        "generate",
        lambda lm, prompts, *more, **named: asked.append(len(prompts)) or plain(lm, prompts, *more, **named),
    )
    found = rated(scorer, *"abcdefgh")
    assert set(np.isnan(found)) <= {True, False} and asked[0] == 8 and scorer.usage.asked >= 8
    assert all(np.isnan(grade) or 1 <= grade <= 10 for grade in found)
    assert scorer.usage.input_tokens > 8 and 8 <= scorer.usage.output_tokens <= 4 * scorer.usage.asked
    assert scorer.usage.unread == int(np.isnan(found).sum())
    count = len(asked)
    release([scorer])
    again = rated(build_scorer({**spec, "tries": 2, "unscored": "leave-out"}), *"abcdefgh")
    assert np.array_equal(again, found, equal_nan=True) and len(asked) == count


# Cost


def test_usage_is_counted_taken_and_priced() -> None:
    usage = Usage()
    usage.add(asked=2, input_tokens=1_500_000, output_tokens=200_000)
    assert Prices(2.0, 5.0, "EUR").of(usage.input_tokens, usage.output_tokens) == 4.0
    assert Prices().of(1, 1) is None
    taken = usage.take()
    assert taken.asked == 2 and not usage and taken and taken.plus(taken).asked == 4
    assert in_words(taken, Prices(2.0, 5.0, "EUR")).endswith("4.00 EUR")
    assert prices_of(None) == Prices() and prices_of({"input": 1}) == Prices(1)
