"""Responses ranked by a judge: labels and levels, both orders, what is asked once, and what cannot be ranked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import pytest

from paretune.core.errors import ConfigError, DataError, ModelError, ScoreError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import pairs
from paretune.data.rows import Message, Row
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.pair_labels import label_dataset
from paretune.scoring.ranked_labels import RankReport, rank_dataset
from paretune.scoring.rubric import Rubric
from paretune.scoring.scorer import build_scorer
from support.command import call
from support.endpoint_server import Server, completion, impatient, serving  # noqa: F401 - a fixture
from support.world import write_model

PROMPT = (Message("user", "How are you?"),)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rubric(tmp_path: Path) -> str:
    (tmp_path / "kind.md").write_text("A good answer is kind.\n")
    return str(tmp_path / "kind.md")


def answers(body: dict) -> tuple[str, str]:
    """The two responses that a question is about, in order."""
    text = body["messages"][-1]["content"]
    first, second = (text.split(f"<answer_{n}>\n")[1].split(f"\n</answer_{n}>")[0] for n in "AB")
    return first, second


@pytest.fixture
def judging() -> Iterator[Callable[..., Server]]:
    """Starts a server whose reply to a question a function gives: text, or a list of tokens with their log-probabilities."""
    with ExitStack() as stack:

        def start(reply: Callable[[str, str], str | list[dict]]) -> Server:
            def behave(body: dict, k: int) -> tuple[int, dict, bytes] | None:
                if not body:
                    return None
                said = reply(*answers(body))
                whole = json.loads(completion(said if isinstance(said, str) else "A"))
                if not isinstance(said, str):
                    whole["choices"][0]["logprobs"] = {"content": [{"token": "A", "top_logprobs": said}]}
                return 200, {}, json.dumps(whole).encode()

            return stack.enter_context(serving(Server(behave)))

        yield start


def longer(first: str, second: str) -> str:
    return "Verdict: tie" if len(first) == len(second) else f"Verdict: {'AB'[len(first) < len(second)]}"


def judge(rubric: str, server: Server, **options: object) -> FunctionScorer:
    spec = {
        "objective": "kind",
        "judge": rubric,
        "model": "tiny",
        "url": server.url,
        "tries": 1,
        "sort": "greedy",
    }
    return build_scorer({**spec, "retries": 1, **options})


def data(*rows: tuple[str, ...]) -> ScoredDataset:
    """A prompt for each row of responses, each another one."""
    return ScoredDataset(
        (), tuple(Row((Message("user", f"Question {n}"),), row) for n, row in enumerate(rows))
    )


def test_ranked_responses_are_labels_of_all_pairs(rubric: str, judging: Callable[..., Server]) -> None:
    server = judging(longer)
    scorer = judge(rubric, server)
    ranked, report = rank_dataset(
        data(("a", "bbb", "cc", "dddd"), ("x", "yy"), ("one",), ("same", "same")), scorer
    )
    labels = {(a, b): p for a, b, p in ranked.rows[0].labels["kind"]}
    assert labels == {(0, 1): -1, (0, 2): -1, (0, 3): -1, (1, 2): 1, (1, 3): -1, (2, 3): -1}
    assert [row.labels.get("kind", ()) for row in ranked.rows[1:]] == [((0, 1, -1.0),), (), ()]
    assert (report.lists, report.short, report.unsaid, report.intransitive) == (2, 2, 0, 0)
    # Every question once, and each pair in both orders.
    asked = [answers(body) for body in server.bodies]
    assert len(set(asked)) == len(asked) and {(b, a) for a, b in asked} == set(asked)
    assert scorer.usage.asked == len(asked) and report.triples == 1
    assert [(p.chosen, p.rejected) for p in pairs(ranked, "kind")] == [("dddd", "a"), ("yy", "x")]
    rank_dataset(data(("a", "bbb", "cc", "dddd"), ("x", "yy")), judge(rubric, server))
    assert len(server.bodies) == len(asked)  # all from the cache


def test_the_cache_is_by_unordered_pair(rubric: str, judging: Callable[..., Server]) -> None:
    """Responses in another order ask for pairs in the other order, whose questions are the same two."""
    server = judging(longer)
    every = judge(rubric, server, sort="none", pairs=6)
    label_dataset(ScoredDataset((), (Row(PROMPT, ("a", "bb", "ccc", "dddd")),)), every)
    assert len(server.bodies) == 12
    for order in permutations(("a", "bb", "ccc", "dddd")):
        ranked, _ = rank_dataset(ScoredDataset((), (Row(PROMPT, order),)), judge(rubric, server))
        assert pairs(ranked, "kind")[0].chosen == "dddd"
    assert len(server.bodies) == 12


def test_levels_are_the_share_of_others_that_are_worse(rubric: str, judging: Callable[..., Server]) -> None:
    ranked, report = rank_dataset(
        data(("a", "bbb", "cc", "bbb"), ("one",)), judge(rubric, judging(longer)), "levels", triples=0
    )
    assert ranked.rows[0].scores["kind"] == (0.0, 1.0, 0.5, 1.0)
    assert "kind" not in ranked.rows[1].scores and ranked.objectives == ("kind",) and report.triples == 0


def test_a_judge_that_follows_the_order_of_answers_has_no_preference(
    rubric: str, judging: Callable[..., Server]
) -> None:
    scorer = judge(rubric, judging(lambda first, second: "Verdict: A"))
    ranked, report = rank_dataset(data(("a", "b", "c")), scorer)
    assert ranked.rows[0].labels["kind"] == ((0, 1, 0.0), (0, 2, 0.0), (1, 2, 0.0))
    assert scorer.usage.turned == scorer.usage.compared == 3 and report.intransitive == 0


def test_a_judge_that_contradicts_itself_is_reported(rubric: str, judging: Callable[..., Server]) -> None:
    beats = {("a", "b"), ("b", "c"), ("c", "a")}
    server = judging(lambda first, second: f"Verdict: {'A' if (first, second) in beats else 'B'}")
    _, report = rank_dataset(data(("a", "b", "c")), judge(rubric, server))
    assert (report.triples, report.intransitive) == (1, 1)
    assert "the judge contradicts itself on 1 of 1 triples (100%; by chance 25%)" in str(report)


def test_a_direction_of_lower_turns_the_ranking(rubric: str, judging: Callable[..., Server]) -> None:
    ranked, _ = rank_dataset(
        data(("a", "bbb", "cc")), judge(rubric, judging(longer), direction="lower"), "levels"
    )
    assert ranked.rows[0].scores["kind"] == (1.0, 0.0, 0.5)


# What cannot be ranked


def test_a_judge_that_answers_nonsense_is_one_message(rubric: str, judging: Callable[..., Server]) -> None:
    with pytest.raises(
        ScoreError,
        match=r"objective 'kind': none of 1 prompts got a ranking from tiny at http.*: the answer of tiny cannot be read: it "
        r"states no verdict, but 'Hm, well\.'; look at its rubric, or take another model",
    ):
        rank_dataset(data(("a", "b")), judge(rubric, judging(lambda *_: "Hm, well.")))


def test_a_prompt_with_one_verdict_that_cannot_be_read_has_no_label_and_is_counted(
    rubric: str, judging: Callable[..., Server]
) -> None:
    def reply(first: str, second: str) -> str:
        return "Hm." if {first, second} == {"a", "b"} else longer(first, second)

    earlier = data(("a", "b", "c"), ("d", "ee"))
    earlier = replace(
        earlier,
        objectives=("kind",),
        rows=tuple(replace(r, labels={"kind": ((0, 1, 1.0),)}) for r in earlier.rows),
    )
    ranked, report = rank_dataset(earlier, judge(rubric, judging(reply)))
    assert [row.labels.get("kind", ()) for row in ranked.rows] == [(), ((0, 1, -1.0),)]
    assert report.unsaid == 1 and "1 prompts have no ranking, as a verdict could not be read" in str(report)


def test_lists_of_one_are_one_message(rubric: str, judging: Callable[..., Server]) -> None:
    with pytest.raises(
        DataError,
        match=r"none of 2 prompts has two different responses, so there is nothing to rank; give several responses",
    ):
        rank_dataset(data(("a",), ("b", "b")), judge(rubric, judging(longer)))


def test_settings_that_cannot_be(rubric: str, judging: Callable[..., Server]) -> None:
    server = judging(longer)
    with pytest.raises(ConfigError, match=r"pairs: 2 with sort: greedy: the sort chooses the pairs"):
        judge(rubric, server, pairs=2)
    with pytest.raises(ConfigError, match=r"gap: 0.7: expected 0 to 0.5"):
        judge(rubric, server, gap=0.7)
    with pytest.raises(ScoreError, match="its scorer ranks nothing; give a judge with sort"):
        rank_dataset(data(("a", "b")), judge(rubric, server, sort="none", pairs=1))
    with pytest.raises(ScoreError, match="its scorer compares no pairs"):
        label_dataset(data(("a", "b")), judge(rubric, server))


# The chance of a letter


def tokens(**chances: float) -> list[dict]:
    return [{"token": name, "logprob": math.log(chance)} for name, chance in chances.items()]


def test_letters_at_a_server_worked(rubric: str, judging: Callable[..., Server]) -> None:
    """P(A) is .6 / .8 in one order and .3 / .9 in the other, where A is the second: P = (.75 + 1 - 1/3) / 2."""

    def reply(first: str, second: str) -> list[dict]:
        if first == "a":
            return [*tokens(A=0.5, B=0.2), {"token": " A", "logprob": math.log(0.1)}]
        return tokens(A=0.3, B=0.6)

    server = judging(reply)
    scorer = judge(rubric, server, verdicts="letter")
    ranked, _ = rank_dataset(data(("a", "b")), scorer)
    ((_, _, strength),) = ranked.rows[0].labels["kind"]
    assert (1 + strength) / 2 == pytest.approx((0.75 + 2 / 3) / 2)
    body = server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (
        True,
        20,
        1,
        0,
    )
    assert body["messages"][-1]["content"].endswith("Answer with one letter and nothing else: A or B")
    assert scorer.usage.turned == 0
    # Written verdicts are other answers than letters.
    assert judge(rubric, server).comparing != scorer.comparing


def test_letters_that_a_server_does_not_give_are_one_message(
    rubric: str, judging: Callable[..., Server]
) -> None:
    with pytest.raises(
        ScoreError, match=r"the answer has no logprobs, by which a letter is read; .*verdicts: written"
    ):
        rank_dataset(data(("a", "b")), judge(rubric, judging(longer), verdicts="letter"))
    nonsense = judging(lambda *_: tokens(Hm=0.9, A=0.01))
    with pytest.raises(
        ScoreError, match=r"the letters A and B have 1.0% of the chance of its first token, expected at"
    ):
        rank_dataset(data(("a", "b")), judge(rubric, nonsense, verdicts="letter"))


def test_letters_here_are_the_models_own_next_token_chances(
    rubric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain forward pass of the model; both orders, without a bias for the place of an answer."""
    import torch

    from paretune.models.language_model import load
    from paretune.scoring import rubric as rubrics

    monkeypatch.setattr(rubrics, "LEAST_CHANCE", 0.0)
    model = write_model(tmp_path)
    spec = {"objective": "kind", "judge": rubric, "model": str(model), "dtype": "float32", "device": "cpu"}
    scorer = build_scorer({**spec, "sort": "beam", "verdicts": "letter"})
    rows = data(("yes", "no good", "moon"))
    ranked, report = rank_dataset(rows, scorer)
    lm, made = load(str(model), "float32", "cpu"), Rubric("A good answer is kind.", name="kind.md")
    letters = [lm.encode_response(letter, True) for letter in "AB"]
    assert all(len(ids) == 1 for ids in letters)
    spaced = [lm.encode_response(f" {letter}", True) for letter in "AB"]

    def chance(first: str, second: str) -> float:
        ids = lm.encode_prompt(
            made.comparison(rows.rows[0].prompt, (first, second), (False, False), letter=True)
        )
        with torch.no_grad():
            p = lm.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        a, b = (
            sum(float(p[t]) for t in {i[0] for i in (x, y) if len(i) == 1})
            for x, y in zip(letters, spaced, strict=True)
        )
        return a / (a + b)

    texts = rows.rows[0].responses
    want = {
        (a, b): chance(texts[a], texts[b]) - chance(texts[b], texts[a]) for a, b in combinations(range(3), 2)
    }
    assert {(a, b): p for a, b, p in ranked.rows[0].labels["kind"]} == pytest.approx(want, abs=1e-5)
    assert report.lists == 1 and scorer.usage.asked == 6 and scorer.usage.output_tokens == 0
    monkeypatch.setattr(rubrics, "LEAST_CHANCE", 2.0)
    with pytest.raises(ScoreError, match="of the chance of its first token"):
        rank_dataset(rows, scorer)


def test_a_model_whose_letters_are_no_tokens_is_refused(rubric: str, tmp_path: Path) -> None:
    from paretune.scoring.judge_model import _chances

    class Lm:
        name = "odd"

        def encode_response(self, text: str, truncated: bool) -> list[int]:
            return [1, 2]

    with pytest.raises(ModelError, match=r"odd: the letters A and B are no single tokens of this model"):
        _chances(Lm(), [[1]], "")  # type: ignore[arg-type]


# By hand


def test_the_command_writes_labels_or_levels(
    tmp_path: Path,
    rubric: str,
    judging: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data(("a", "bbb", "cc"), ("d", "ee")).write(tmp_path / "in.jsonl")
    server = judging(longer)
    spec = f"{{objective: kind, judge: {rubric}, model: tiny, url: '{server.url}', sort: beam}}"
    rank = (monkeypatch, capsys, "score", "rank", tmp_path / "in.jsonl")
    for how in ("labels", "levels"):
        out = tmp_path / f"{how}.jsonl"
        code, said, _ = call(*rank, out, "--scorer", spec, "--as", how)
        assert code == 0 and "2 prompts ranked by" in said
        row = ScoredDataset.read(out).rows[0]
        assert (row.scores["kind"] == (0, 1, 0.5)) if how == "levels" else (len(row.labels["kind"]) == 3)
    without = spec.replace(", sort: beam", "")
    code, _, message = call(*rank, tmp_path / "no.jsonl", "--scorer", without)
    assert code == 2 and "ranks nothing; expected a judge with a sort" in message
    code, _, message = call(
        monkeypatch, capsys, "score", "pairs", tmp_path / "in.jsonl", tmp_path / "no.jsonl", "--scorer", spec
    )
    assert code == 2 and "compares no pairs" in message


def test_a_report_adds_up() -> None:
    assert str(RankReport(lists=2, pairs=5)) == "2 prompts ranked by 5 pairs, each in both orders"
    assert RankReport(1, 2, 3, 4, 5, 6, 7).plus([]) == RankReport(1, 2, 3, 4, 5, 6, 7)
