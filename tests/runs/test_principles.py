"""MORLAIF: a file of principles, the labels of a judge for each, a head for each, and a run on them; and files that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import ConfigError, ScoreError
from paretune.core.files import read_json
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message
from paretune.fronts.record import FrontRecord
from paretune.runs.estimate import estimate
from paretune.runs.parse import parse_config
from paretune.runs.plan import plan
from paretune.runs.principles import with_principles
from paretune.runs.run import run
from paretune.scoring import encoder as encode
from paretune.scoring.bradley_terry import load_head
from paretune.scoring.rubric import ALONE, principles_in, read_rubric
from support.command import call
from support.endpoint_server import Server, completion, impatient, serving  # noqa: F401 - a fixture
from support.runs_world import small_run
from support.world import make_dataset, write_model

PRINCIPLES = """
scale: [1, 5]
compare: Ignore spelling.
principles:
  long: The answer is long.
  moon: {principle: The answer speaks of the moon., scale: [0, 1], decimals: true}
"""
WORDS_OF = {"The answer is long.": None, "The answer speaks of the moon.": "moon"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def principles(tmp_path: Path) -> str:
    (tmp_path / "principles.yaml").write_text(PRINCIPLES)
    return str(tmp_path / "principles.yaml")


def verdict(body: dict) -> str:
    """By the principle that is asked about: more words, or more moons."""
    text = body["messages"][-1]["content"]
    (word,) = [word for sentence, word in WORDS_OF.items() if sentence in text]
    answers = [text.split(f"<answer_{n}>\n")[1].split(f"\n</answer_{n}>")[0].split() for n in "AB"]
    first, second = (len(answer) if word is None else answer.count(word) for answer in answers)
    return "Verdict: tie" if first == second else f"Verdict: {'AB'[first < second]}"


@pytest.fixture
def server() -> Iterator[Server]:
    def behave(body: dict, k: int) -> tuple[int, dict, bytes] | None:
        return (200, {}, completion(verdict(body))) if body else None

    with serving(Server(behave)) as made:
        yield made


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings that know what both principles ask for."""

    def embed(encoder: object, texts: list, batch_size: int = 32, advance: object = None) -> np.ndarray:
        joined = [t if isinstance(t, str) else " ".join(t) for t in texts]
        rows = [[len(t.split()) / 7, t.split().count("moon"), 1.0] for t in joined]
        return np.array(rows, dtype=np.float32).reshape(len(texts), 3)

    monkeypatch.setattr(encode, "load_encoder", lambda folder, device=None, dtype="auto": None)
    monkeypatch.setattr(encode, "embed", embed)


def entry(principles: str, server: Server, **options: object) -> dict:
    return {
        "principles": principles,
        "model": "big",
        "url": server.url,
        "tries": 1,
        "sort": "greedy",
        **options,
    }


def write_pairs(file: Path, count: int) -> None:
    """Two responses to each prompt, which differ on both principles, at random."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        lengths, moons = random.permutation([2, 5]), random.permutation([0, 1])
        responses = [" ".join(["red"] * n + ["moon"] * m) for n, m in zip(lengths, moons, strict=True)]
        rows.append({"prompt": f"star {number}", "responses": responses})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_principles_train_any_method(
    tmp_path: Path, model: Path, principles: str, server: Server, embedded: None
) -> None:
    write_pairs(tmp_path / "data.jsonl", 120)
    config = parse_config(
        {
            "folder": str(tmp_path / "run"),
            "model": str(model),
            "dtype": "float32",
            "device": "cpu",
            "data": {"source": str(tmp_path / "data.jsonl"), "limit": 120},
            "score": [entry(principles, server, head="fit")],
            "methods": {"dpo-soup": {"beta": 0.5}, "morlhf": {"responses": 2, "scalarisation": "min"}},
            "preferences": ["long=0.5,moon=0.5"],
            "train": {"steps": 1, "batch_pairs": 2, "rank": 2},
            "sampling": {"max_new_tokens": 4, "batch_size": 64},
            "evaluate": {"samples": 1, "preferences": 2, "resamples": 20},
        }
    )
    folder = run(config).parent
    trained = ScoredDataset.read(folder / "data" / "train.jsonl.gz")
    assert trained.objectives == ("long", "moon") and len(trained.rows) > 70
    for row in trained.rows:  # each principle has its own label, and no score
        ((_, _, long),), ((_, _, moon),) = row.labels["long"], row.labels["moon"]
        first, second = (text.split() for text in row.responses)
        assert long == np.sign(len(first) - len(second)) and moon == np.sign(
            first.count("moon") - second.count("moon")
        )
        assert not row.scores
    for name in ("long", "moon"):
        report = load_head(folder / "heads" / name / "head").report
        assert report.objective == name and report.accuracy > 0.85
    record = FrontRecord.read(folder / "front.json")
    assert record.objectives == ("long", "moon") and {p.name for p in record.policies} == {
        "dpo-soup",
        "morlhf",
    }
    for name in ("long", "moon"):
        facts = record.scorers[name]
        assert facts.asked is not None and facts.asked.judge == f"big at {server.url} by principles.yaml"
        assert facts.asked.compared > 90 and facts.asked.turned == 0 and facts.accuracy is not None
    assert "Who judged?" in (folder / "report.html").read_text()
    usage = read_json(folder / "scores" / "usage.json")
    assert sum(counts["asked"] for counts in usage.values()) == len(server.bodies) > 300
    asked = len(server.bodies)
    run(config)
    assert len(server.bodies) == asked, "what was judged is not asked again"


@pytest.mark.slow
def test_the_policies_of_a_run_are_ranked_by_a_judge(
    tmp_path: Path,
    model: Path,
    principles: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick = {"preferences": 2, "evaluate": {"samples": 1, "preferences": 2, "resamples": 20}}
    folder = small_run(
        tmp_path / "run", model, methods={"dpo-soup": {"beta": 0.5}}, train={"steps": 2}, **quick
    )
    judge = {"objective": "long", "judge": principles, **entry(principles, server, sort="beam")}
    del judge["principles"]
    told = (monkeypatch, capsys, "score", "policies", folder, "--scorer", json.dumps(judge), "--prompts", 5)
    code, said, message = call(*told, "--json")
    assert code == 0, message
    facts = json.loads(said)
    names = [row["policy"] for row in facts["ranking"]]
    assert sorted(set(names)) == ["base", "corners", "dpo-soup", "modpo"] and facts["prompts"] == 5
    assert facts["intransitive"] == 0 < facts["triples"] and facts["unsaid"] == 0
    # The single-objective models are the ends of the soup: the same answers, which are a tie and not asked about.
    chances = {row["policy"]: row.get("better_than_next") for row in facts["ranking"]}
    assert any(chance and chance["chance"] == 0.5 for chance in chances.values())
    code, said, _ = call(*told, "--policy", "dpo-soup")
    assert code == 0 and "Policies, the best first" in said and "modpo" not in said
    code, _, message = call(*told, "--policy", "soup")
    assert code == 2 and "--policy 'soup'" in message
    code, _, message = call(monkeypatch, capsys, "score", "policies", tmp_path, "--scorer", json.dumps(judge))
    assert code == 2 and "no data/answers.jsonl.gz; expected the folder of a finished run" in message


def test_an_entry_of_principles_is_one_for_each(principles: str) -> None:
    judge = {"model": "m", "url": "http://x/v1", "pairs": 3}
    rule = {"objective": "short", "rule": "length"}
    made = with_principles([rule, {"principles": principles, "head": "fit", **judge}])
    labels = {"judge": principles, **judge}
    assert made == [
        rule,
        {"objective": "long", "head": "fit", "labels": labels},
        {"objective": "moon", "head": "fit", "labels": labels},
    ]
    without = with_principles([{"principles": principles, **judge}])
    assert without[1] == {"objective": "moon", "judge": principles, **judge}
    assert with_principles(made) == made and with_principles(None) is None
    config = parse_config({"score": [{"principles": principles, **judge}]})
    assert [spec["objective"] for spec in config.score] == ["long", "moon"]


def test_a_config_file_may_name_principles(
    tmp_path: Path,
    model: Path,
    principles: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the command line, which checks a file before anything is loaded."""
    make_dataset(40).select([]).write(tmp_path / "data.jsonl")
    values = {
        "model": str(model),
        "folder": str(tmp_path / "run"),
        "data": {"source": str(tmp_path / "data.jsonl")},
        "score": [entry(principles, server, head="fit")],
        "methods": {"dpo-soup": {}},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    code, said, message = call(
        monkeypatch, capsys, "plan", tmp_path / "config.yaml", "--model", "1b", "--device", "a100", "--json"
    )
    assert code == 0, message
    assert [asking["objective"] for asking in json.loads(said)[0]["asked"]] == ["long", "moon"]
    values["score"][0]["sorts"] = "greedy"
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    code, _, message = call(monkeypatch, capsys, "plan", tmp_path / "config.yaml")
    assert code == 2 and "unknown key 'sorts': did you mean 'sort'" in " ".join(message.split())
    (tmp_path / "principles.yaml").write_text("principles: {}")
    code, _, message = call(monkeypatch, capsys, "plan", tmp_path / "config.yaml")
    assert code == 2 and "expected a YAML file with principles: and under it a sentence" in " ".join(
        message.split()
    )


def test_each_principle_is_a_rubric_of_its_own(principles: str) -> None:
    assert principles_in(principles) == ("long", "moon")
    long, moon = (read_rubric(principles, name) for name in ("long", "moon"))
    assert long.text == f"{ALONE}\nThe answer is long." and (long.low, long.high, long.decimals) == (
        1,
        5,
        False,
    )
    assert (moon.low, moon.high, moon.decimals, moon.compare) == (0, 1, True, "Ignore spelling.")
    assert long.fingerprint != moon.fingerprint
    question = moon.comparison((Message("user", "Hi"),), ("one", "two"), (False, False))[-1].content
    assert "speaks of the moon" in question and "is long" not in question


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "principles: {}",
            r"principles: \{\}: expected a YAML file with principles: and under it a sentence",
        ),
        ("principles:", r"principles: None: expected a YAML file with principles"),
        ("rubric: Be kind.", r"has no principles; expected a YAML file with principles"),
        ("[1]", r"expected settings with the text under rubric"),
        (
            "principles: {long: }",
            r"principles.long: None: expected a sentence, or settings with the sentence",
        ),
        ("principles: {long: {scale: [1, 5]}}", r"principles.long: .*: expected a sentence, or settings"),
        ("principles: {long: {principle: x, scales: 3}}", r"unknown setting 'scales': did you mean 'scale'"),
        ("principles: {long: {principle: x, scale: 3}}", r"scale: 3: expected the lowest and the highest"),
        ("principles: {long: x}\nrubric: y", r"rubric: stands beside principles"),
        ("principles: {long: x}\nsistem: y", r"unknown setting 'sistem': did you mean 'system'"),
    ],
)
def test_files_that_are_no_principles(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"principles: .*p\.yaml: .*{message}"):
        principles_in(str(tmp_path / "p.yaml"))


def test_entries_that_cannot_be(tmp_path: Path, principles: str) -> None:
    judge = {"model": "m", "url": "http://x/v1"}
    kind = {"objective": "kind", "head": "fit"}
    (tmp_path / "kind.md").write_text("Kind.")
    rubric = str(tmp_path / "kind.md")
    for score, message in (
        ({"principles": "none.yaml", **judge}, r"score\[0\]: principles: none.yaml: cannot read"),
        ({"principles": rubric, **judge}, r"kind.md: has no principles"),
        ({"principles": 3, **judge}, r"principles: 3: expected the name of a file"),
        ({"principles": principles, "objective": "x", **judge}, "objective: stands beside principles"),
        ({"principles": principles, "head": "folder", **judge}, "head: 'folder': expected fit"),
        ({"principles": principles, "head": "fit", **judge}, "labels: its judge compares no pairs"),
        ({**kind, "labels": "kind.md"}, "labels: 'kind.md': expected a judge that compares"),
        ({**kind, "labels": {"judge": rubric, **judge, "pears": 3}}, "labels: .*unknown key 'pears'"),
        ({**kind, "labels": {"judge": rubric, **judge, "pairs": -3}}, "labels: .*pairs must be at least 0"),
        ({**kind, "labels": {"judge": rubric, "objective": "x"}}, "objective: is that of the head"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config({"score": [score, {"objective": "s", "rule": "length"}]})
    from paretune.scoring.scorer import build_scorer

    with pytest.raises(
        ConfigError, match=r"judge: .*principles.yaml: principles: none of 'lung'; did you mean"
    ):
        build_scorer({"objective": "lung", "judge": principles, **judge})
    with pytest.raises(ConfigError, match="labels: are for head: fit, which a run fits"):
        build_scorer({"objective": "kind", "head": str(tmp_path), "labels": {"judge": rubric, **judge}})


def test_a_judge_that_answers_nonsense_stops_the_run_before_it_trains(
    tmp_path: Path, model: Path, principles: str
) -> None:
    with serving(Server(lambda body, k: (200, {}, completion("Hm.")) if body else None)) as server:
        entries = [entry(principles, server, head="fit")]
        with pytest.raises(
            ScoreError, match=r"none of \d+ prompts got a ranking from big at .* states no verdict, but 'Hm"
        ):
            small_run(tmp_path / "run", model, score=entries)
    assert not (tmp_path / "run" / "adapters").exists()


def test_a_plan_says_what_the_labels_will_cost(
    tmp_path: Path, model: Path, principles: str, server: Server
) -> None:
    make_dataset(40, responses=4).select([]).write(tmp_path / "data.jsonl")

    def planned(**options: object) -> tuple[list[float], dict[str, float]]:
        prices = {"input": 1.0, "output": 1.0}
        spec = entry(principles, server, head="fit", prices=prices, **options)
        base = {"model": str(model), "methods": {"dpo-soup": {}}, "preferences": 2}
        config = parse_config({**base, "data": {"source": str(tmp_path / "data.jsonl")}, "score": [spec]})
        made = plan(config)
        rows = {row.name: row.cost.seconds for row in estimate(made, config, "1b", "a100").rows}
        assert [asking.objective for asking in made.asked] == ["long", "moon"]
        return [asking.questions for asking in made.asked], rows

    questions, rows = planned()
    parts = 2 * 5  # both orders of the five pairs of a merge sort of four, and the triple's: all six
    assert questions[0] == questions[1] and questions[0] % (parts + 2) == 0
    assert rows["labels"] > 0 and rows["heads"] > 0
    beam, _ = planned(sort="beam")
    few, _ = planned(sort="none", pairs=1)
    assert beam[0] == questions[0] and few[0] == questions[0] / 6
    assert not server.bodies
