"""The answers of runs scored anew: each answer by the new scorers, gains by hand, and what is refused."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import ConfigError, DataError
from paretune.core.files import write_json
from paretune.data.score_files import read_scores
from paretune.evaluation.rescored import gains, rescored
from paretune.fronts.record import FrontRecord
from paretune.scoring.cache import ScoreCache
from paretune.scoring.scorer import build_scorer
from support import records
from support.command import call

SHORT = "{objective: short, rule: length, unit: words, direction: lower}"
WARM = "{objective: warm, rule: regex, pattern: nice, how: count}"
PROMPTS = 6
WORDS = {"base": (6, 1), "a-seed-0": (2, 4), "a-seed-1": (3, 2), "corners": (2, 4)}
"""Policy -> words of an answer at full weight on short, and times that it says nice at full weight on warm."""


def answer(policy: str, short: float, p: int) -> str:
    count, nice = WORDS[policy]
    if policy == "base":
        return " ".join(["word"] * (count + p % 2))
    return " ".join(["word"] * (count + p % 2)) if short == 1 else " ".join(["nice"] * (nice + p % 3))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run's folder with answers that its own scorers scored 10 p for short, and p for warm."""
    lines = []
    for policy in WORDS:
        for short in (1.0,) if policy == "base" else (1.0, 0.0):
            weights = {"short": 0.5, "warm": 0.5} if policy == "base" else {"short": short, "warm": 1 - short}
            for p in range(PROMPTS):
                own = {"short": 10.0 * p + (policy != "base"), "warm": float(p)}
                lines.append({
                    "policy": policy, "preference": weights, "prompt": [{"role": "user", "content": f"question {p}"}],
                    "prompt_id": f"q{p}", "sample": 0, "answer": answer(policy, short, p), "truncated": False, "scores": own,
                })  # fmt: skip
    (tmp_path / "run" / "data").mkdir(parents=True)
    with gzip.open(tmp_path / "run" / "data" / "answers.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def test_every_answer_is_scored_by_the_new_scorers_alone(run: Path, tmp_path: Path) -> None:
    scorers = [build_scorer({"objective": "warm", "rule": "regex", "pattern": "nice", "how": "count"})]
    scorers += [build_scorer({"objective": "short", "rule": "length", "direction": "lower"})]
    found = rescored([run], scorers, ScoreCache(tmp_path / "scores"))
    assert found.own.objectives == ("short", "warm")
    base, a = found.other.policies()["base"], found.other.policies()["a-seed-0"]
    assert base.scores[0, :, 0, 0].tolist() == [-6, -7] * 3 and not base.scores[..., 1].any()
    at = {w.over(("short", "warm")).weights: n for n, w in enumerate(a.preferences)}
    assert a.scores[at[1.0, 0.0], :, 0, 0].tolist() == [-2, -3] * 3
    assert a.scores[at[0.0, 1.0], :, 0, 1].tolist() == [4, 5, 6] * 2
    assert found.own.policies()["base"].scores[0, :, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert len(ScoreCache(tmp_path / "scores")) > 10 and found.other.rows[0].scorer

    # a has two seeds, one row: 4 and 3 words less than the base model, whose lengths vary by half a word.
    by = {(gain.policy, gain.objective): gain for gain in gains(found)}
    assert set(by) == {(policy, objective) for policy in ("a", "corners") for objective in ("short", "warm")}
    assert by["a", "short"].other.value == pytest.approx(3.5 / 0.5) and by["a", "short"].weight == 1.0
    assert by["a", "short"].own.value == pytest.approx(1 / np.std([0, 10, 20, 30, 40, 50]))
    assert by["a", "warm"].own.value == 0
    assert by["a", "warm"].other.value == pytest.approx(4.0), (
        "in its own units where the base model never varies"
    )


def test_without_the_base_model_nothing_is_gained(run: Path) -> None:
    file = run / "data" / "answers.jsonl.gz"
    lines = [
        line for line in gzip.decompress(file.read_bytes()).decode().splitlines() if '"base"' not in line
    ]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    scorers = [
        build_scorer({"objective": "short", "rule": "length"}),
        build_scorer({"objective": "warm", "rule": "sentiment"}),
    ]
    assert gains(rescored([run], scorers)) == []


def test_the_command_judges_by_the_new_scores(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["judge", run, "--scorer", SHORT, "--scorer", WARM, "--resamples", "50"]
    code, told, error = call(monkeypatch, capsys, *words)
    assert code == 0, error
    assert "Gain over the base model" in told and "overoptimisation" in told
    code, told, error = call(monkeypatch, capsys, *words, "--json")
    facts = json.loads(told)
    assert code == 0 and len(facts["gains"]) == 4 and "base" in facts["hypervolumes"]
    assert facts["gains"][0]["other"]["value"] == pytest.approx(7.0)
    code, _, error = call(monkeypatch, capsys, *words, "--out", run / "judged")
    assert code == 0, error
    again = read_scores(run / "judged")
    assert (
        again.policies()["base"].scores[0, :, 0, 0].tolist() == [-6, -7] * 3 and "short" in again.scorers[0]
    )


def test_the_record_of_new_scores_keeps_what_its_run_says_of_policies_and_answers(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("short", "warm")
    cost = {"adapters": 2, "passes": 1, "tokens": 1234, "sampled": 0, "seconds": 5.0, "runs": 2}
    points = [
        records.point({"short": short, "warm": 1 - short}, (9, 9), collapse_rate=share, cut_rate=2 * share)
        for short, share in ((0.0, 0.1), (1.0, 0.2))
    ]
    base = records.point({"short": 0.5, "warm": 0.5}, (9, 9), cut_rate=0.4) | {
        "hypervolume": records.figure(1)
    }
    own = records.record(names, [records.policy("a-seed-0", points, cost=cost, title="Soups")], base=base)
    write_json(run / "front.json", own)
    words = ["judge", run, "--scorer", SHORT, "--scorer", WARM, "--resamples", "50", "--out", run / "judged"]
    code, _, error = call(monkeypatch, capsys, *words)
    assert code == 0, error
    found = FrontRecord.read(run / "judged" / "front.json")
    a, other = found.policies
    assert a.cost is not None and a.cost.tokens == 1234 and a.title == "Soups"
    shares = {point.preference["short"]: (point.collapse_rate, point.cut_rate) for point in a.points}
    assert shares == {0.0: (0.1, 0.2), 1.0: (0.2, 0.4)} and found.base.cut_rate == 0.4
    assert {point.preference["short"]: point.mean[0] for point in a.points}[1.0] == -2.5, "the new score"
    assert other.cost is None and math.isnan(other.points[0].collapse_rate), (
        "the run's record does not have it"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scorer", SHORT], "one for each objective of the runs: short, warm"),
        (["--scorer", SHORT, "--scorer", SHORT], "is given for short, short"),
        (
            ["--scorer", SHORT, "--scorer", "{objective: kind, rule: sentiment}"],
            "the runs have no objective 'kind'",
        ),
        (
            ["--scorer", SHORT, "--scorer", WARM, "--column", "policy=model"],
            "--column names columns of a table",
        ),
        (["--scorer", SHORT, "--scorer", "{objective: warm, rule: sentimental}"], "sentimental"),
    ],
)
def test_what_is_refused(
    run: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, error = call(monkeypatch, capsys, "judge", run, *words)
    assert code == 2 and said in " ".join(error.split()) and "Traceback" not in error


def test_folders_without_answers_and_damaged_answers(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folders of finished runs"):
        rescored([tmp_path], [])
    (run / "data" / "answers.jsonl.gz").write_bytes(gzip.compress(b'{"policy": "a"}\n'))
    with pytest.raises(DataError, match=r"answers.jsonl.gz:1: no 'preference'"):
        rescored([run], [])
