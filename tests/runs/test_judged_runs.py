"""Runs whose scores come from a judge behind a server: what is asked, said and left out, from the data to the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretune.core.errors import ScoreError
from paretune.core.files import read_json
from paretune.data.dataset import ScoredDataset
from paretune.fronts.record import FrontRecord
from paretune.runs.estimate import estimate
from paretune.runs.parse import parse_config
from paretune.runs.plan import plan
from support.command import call
from support.endpoint_server import Server, completion, impatient, serving  # noqa: F401 - a fixture
from support.runs_world import small_run
from support.world import make_dataset, write_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def rubric(tmp_path: Path) -> str:
    (tmp_path / "kind.md").write_text("A kind answer.")
    return str(tmp_path / "kind.md")


def judged(body: dict) -> str:
    """What the judge says: the grade is the number of words, at most 10; answers with two moons it cannot grade."""
    text = body["messages"][-1]["content"]
    if "<answer_A>" in text:
        lengths = [len(text.split(f"<answer_{n}>\n")[1].split(f"\n</answer_{n}>")[0].split()) for n in "AB"]
        return "Verdict: tie" if lengths[0] == lengths[1] else f"Verdict: {'AB'[lengths[0] < lengths[1]]}"
    answer = text.split("<answer>\n")[1].split("\n</answer>")[0]
    return "No." if answer.count("moon") > 1 else f"Score: {min(10, max(1, len(answer.split())))}"


@pytest.fixture
def server() -> Iterator[Server]:
    def behave(body: dict, k: int) -> tuple[int, dict, bytes] | None:
        if not body:
            return None
        whole = json.loads(completion(judged(body)))
        whole["usage"] = {"prompt_tokens": 50, "completion_tokens": 5}
        return 200, {}, json.dumps(whole).encode()

    with serving(Server(behave)) as made:
        yield made


def score(rubric: str, server: Server, **options: object) -> list[dict]:
    judge = {"objective": "kind", "judge": rubric, "model": "big", "url": server.url, "tries": 1}
    return [
        {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
        {**judge, "prices": {"input": 100.0, "output": 1000.0, "currency": "EUR"}, **options},
    ]


ONE = {"dpo-soup": {"beta": 0.5}}
QUICK = {"preferences": 2, "evaluate": {"samples": 1, "preferences": 2, "resamples": 20}}


@pytest.mark.slow
def test_a_run_says_who_judged_what_it_cost_and_what_it_left_out(
    tmp_path: Path, model: Path, rubric: str, server: Server
) -> None:
    entries = score(rubric, server, unscored="leave-out")
    folder = small_run(tmp_path / "run", model, methods=ONE, score=entries, **QUICK)
    asked = len(server.bodies)
    record = FrontRecord.read(folder / "front.json")
    facts = record.scorers["kind"].asked
    assert facts is not None and facts.judge == f"big at {server.url} by kind.md"
    assert facts.asked == asked and facts.input_tokens == 50 * asked and facts.output_tokens == 5 * asked
    assert facts.money == pytest.approx(asked * (50 * 100 + 5 * 1000) / 1e6) and facts.currency == "EUR"
    failed = {body["messages"][-1]["content"] for body in server.bodies if judged(body) == "No."}
    assert facts.unread == len(failed) > 0
    assert record.scorers["short"].asked is None
    notes = " ".join(record.data.notes)
    assert "rows have a response that got no score, and were left out" in notes
    trained = ScoredDataset.read(folder / "data" / "train.jsonl.gz")
    assert all(row.scores["kind"] for row in trained.rows)
    assert not any(text.count("moon") > 1 for row in trained.rows for text in row.responses)
    page = (folder / "report.html").read_text()
    assert "Who judged?" in page and "big at" in page and f"⚠ {facts.unread}" in page
    # The same again: nothing is asked, and the counts stay.
    for file in (folder / "fronts").glob("*.json"):
        file.unlink()
    (folder / "cache" / "scores.sqlite").unlink()
    small_run(tmp_path / "run", model, methods=ONE, score=entries, **QUICK)
    again = FrontRecord.read(folder / "front.json").scorers["kind"].asked
    assert len(server.bodies) == asked
    assert again is not None and again.asked == facts.asked and again.kept > 0 and again.money == facts.money


@pytest.mark.slow
def test_a_run_stops_where_a_judge_gives_no_grade(
    tmp_path: Path, model: Path, rubric: str, server: Server
) -> None:
    with pytest.raises(
        ScoreError, match=r"objective 'kind': \d+ of \d+ responses got no score: made:\d+, response \d"
    ):
        small_run(tmp_path / "run", model, methods=ONE, score=score(rubric, server), **QUICK)
    # What it cost until then is known.
    (counts,) = read_json(tmp_path / "run" / "scores" / "usage.json").values()
    assert counts["asked"] == len(server.bodies) and counts["unread"] > 0


@pytest.mark.slow
def test_a_judge_labels_the_pairs_and_grades_the_answers(
    tmp_path: Path, model: Path, rubric: str, server: Server
) -> None:
    entries = score(rubric, server, pairs=2, unscored="leave-out")
    folder = small_run(tmp_path / "run", model, methods=ONE, score=entries, **QUICK)
    trained = ScoredDataset.read(folder / "data" / "train.jsonl.gz")
    for row in trained.rows:
        assert "kind" not in row.scores and len(row.labels["kind"]) == 2
        for a, b, preference in row.labels["kind"]:
            lengths = [len(row.responses[k].split()) for k in (a, b)]
            assert preference == (lengths[0] > lengths[1]) - (lengths[0] < lengths[1])
    facts = FrontRecord.read(folder / "front.json").scorers["kind"].asked
    validation = ScoredDataset.read(folder / "data" / "validation.jsonl.gz")
    assert (
        facts is not None
        and facts.compared == 2 * (len(trained.rows) + len(validation.rows))
        and facts.turned == 0
    )


@pytest.mark.slow
def test_a_plan_says_what_a_judge_will_be_asked(
    tmp_path: Path, model: Path, rubric: str, server: Server
) -> None:
    data = tmp_path / "data.jsonl"
    make_dataset(40).select([]).write(data)

    def asked(**options: object) -> tuple[float, float | None, str]:
        config = parse_config(
            {
                "model": str(model),
                "data": {"source": str(data)},
                "score": score(rubric, server, **options),
                "methods": ONE,
                "preferences": 3,
            }
        )
        made = plan(config)
        (asking,) = made.asked
        shown = estimate(made, config, str(model))
        assert shown.to_dict()["asked"] == [asking.to_dict()]
        return asking.questions, asking.money, str(asking)

    questions, money, sentence = asked()
    assert questions > 100 and money is not None and money > 0
    assert f"questions to big at {server.url}" in sentence and "EUR" in sentence
    more, dearer, _ = asked(pairs=3)
    assert more > questions and dearer is not None and dearer > money, (
        "both orders of three pairs are more than three answers"
    )
    assert asked(prices=None)[1] is None
    assert not server.bodies, "a plan asked"


# Commands


def data_file(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    make_dataset(4, responses=3, seed=5).select([]).write(file)
    return file


def entry(rubric: str, server: Server, **options: object) -> str:
    return json.dumps(score(rubric, server, **options)[1])


def test_score_rate_writes_scores_and_says_what_was_asked(
    tmp_path: Path,
    rubric: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rated.jsonl"
    line = [
        "score",
        "rate",
        data_file(tmp_path),
        out,
        "--scorer",
        entry(rubric, server, unscored="leave-out"),
    ]
    status, said, error = call(monkeypatch, capsys, *map(str, line), "--json")
    assert status == 0, error
    facts = json.loads(said)
    made = ScoredDataset.read(out)
    texts = [text for row in made.rows for text in row.responses]
    missing = sum(text.count("moon") > 1 for text in texts)
    assert facts["responses"] == len(texts) == 12 and facts["without_score"] == missing
    assert "kind: judged by big at" in error and "EUR" in error
    assert sum(map(len, (row.scores.get("kind", ()) for row in made.rows))) > 0
    assert not list(tmp_path.glob("*.scores"))
    status, _, error = call(monkeypatch, capsys, *map(str, line))
    assert status == 2 and "rated.jsonl" in error and "exists" in error


def test_score_pairs_writes_labels(
    tmp_path: Path,
    rubric: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "pairs.jsonl"
    line = ["score", "pairs", data_file(tmp_path), out, "--scorer", entry(rubric, server, pairs=2)]
    status, said, error = call(monkeypatch, capsys, *map(str, line))
    assert status == 0, error
    assert "4 prompts, 8 pairs compared on kind" in said
    assert all(len(row.labels["kind"]) == 2 for row in ScoredDataset.read(out).rows)
    out.unlink()
    for scorer, message in (
        (entry(rubric, server), "compares no pairs"),
        ("{objective: x, rule: length}", "compares no pairs"),
        ("[1", "--scorer"),
        ("text", "expected a mapping"),
        (
            "{objective: x, judge: nowhere.md, model: m, url: 'http://x/v1', pairs: 1}",
            "cannot read the rubric",
        ),
    ):
        line[-1] = scorer
        status, _, error = call(monkeypatch, capsys, *map(str, line))
        assert status == 2 and message in error and "Traceback" not in error
