"""What stands beside a record: all answers of the run with a limit of bytes, and how training went, also over seeds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ParetuneError
from paretune.fronts.record import FrontRecord
from paretune.reports import answers
from paretune.reports.beside import read_beside
from paretune.reports.report import write_report
from paretune.reports.training import training_curves
from support import records

PREFERENCE = {"concise": 1.0, "warm": 0.0}


def made(names: tuple[str, ...] = ("modpo",), stages: tuple[str, ...] = ()) -> FrontRecord:
    policies = [
        records.policy(name, [records.point(PREFERENCE, [-2.0, 1.0], responses=["kept"])]) for name in names
    ]
    facts = records.record(["concise", "warm"], policies, prompts=["Q0"], num_prompts=3)
    facts["stages"] = [{"name": name, "seconds": 1.0, "reused": False} for name in stages]
    return FrontRecord.parse(facts)


def write_answers(folder: Path, record: FrontRecord, **changed: Any) -> Path:
    lines = [
        {
            "policy": name,
            "preference": preference,
            "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Q{p}"}],
            "prompt_id": f"id{p}",
            "sample": sample,
            "answer": f"{name} {p} {sample}",
            "scores": {"warm": 1.0 + p, "concise": -2.0},
            **changed,
        }
        for name, preference in [
            ("base", record.base.preference),
            *((policy.name, policy.points[0].preference) for policy in record.policies),
        ]
        for p in range(3)
        for sample in range(2)
    ]
    (folder / "data").mkdir(exist_ok=True)
    file = folder / "data" / "answers.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    return file


def test_all_answers_of_a_run_are_read_one_sample_each(tmp_path: Path) -> None:
    record = made()
    write_answers(tmp_path, record)
    found = read_beside(record, tmp_path).answers
    assert found.prompts == ("Q0", "Q1", "Q2")
    assert found.points[0, 0].texts == ("modpo 0 0", "modpo 1 0", "modpo 2 0")
    assert found.points[0, 0].scores == ((-2.0, 1.0), (-2.0, 2.0), (-2.0, 3.0)), "in the order of the record"


def test_without_the_file_or_with_that_of_another_front_the_answers_are_those_of_the_record(
    tmp_path: Path,
) -> None:
    record = made()
    write_answers(tmp_path, made(("another",)))
    for folder in (tmp_path, tmp_path / "none"):
        found = read_beside(record, folder).answers
        assert found.prompts == ("Q0",) and found.points[0, 0].texts == ("kept",)


@pytest.mark.parametrize("damage", ["cut", "noise", "no scores", "no lines"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    record = made()
    file = write_answers(tmp_path, record, **({"scores": {}} if damage == "no scores" else {}))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:60])
    elif damage == "noise":
        file.write_bytes(b"\x1f\x8bnoise")
    elif damage == "no lines":
        file.write_bytes(gzip.compress(b'["a list"]\n'))
    with pytest.raises(ParetuneError, match=r"answers\.jsonl\.gz: not as expected"):
        read_beside(record, tmp_path)


def test_a_page_says_how_many_prompts_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = made()
    write_answers(tmp_path, record)
    assert "All 3 prompts are here (1 kB)" in write_report(record, tmp_path).read_text()
    monkeypatch.setattr(answers, "MOST_BYTES", 50)
    page = write_report(record, tmp_path).read_text()
    assert "The first 2 of 3 prompts are here (1 kB); <code>data/answers.jsonl.gz</code> has all" in page
    assert "modpo 1 0" in page and "modpo 2 0" not in page
    assert "1 of 3 prompts are here" in write_report(record, tmp_path / "none").read_text()


def history(last: float, **rest: float) -> list[dict[str, float]]:
    return [{"step": n + 1.0, "loss": 4.0 - n * (4.0 - last) / 9, **rest} for n in range(10)]


def test_each_adapter_has_its_curves() -> None:
    histories = {
        "adapters/dpo-warm": history(1.0, **{"rewards/accuracies": 0.5, "validation_loss": 2.0}),
        "adapters/empty": [],
    }
    page = training_curves(made(), histories)
    assert page.count("<figure") == 1 and "dpo-warm" in page
    assert "loss: 4 at step 1, 1 at step 10; on validation data 2, then 2" in page
    assert "pairs ranked right: 0.5 at step 1" in page and "margin" not in page
    assert page.count('class="held"') == 10
    assert training_curves(made(), {}) == ""


def test_training_seeds_share_a_plot_and_long_trainings_are_thinned() -> None:
    names = ("modpo-seed-0", "modpo-seed-1")
    histories = {f"adapters/{name}-concise=1.0": history(1.0 + n) for n, name in enumerate(names)}
    histories |= {"adapters/dpo-warm": history(1.0), "adapters/dpo-warm-0123456789abcdef": history(2.0)}
    page = training_curves(made(names), histories)
    assert page.count("<figure") == 2 and page.count("2 seeds") == 2
    assert page.count('class="smooth"') == 4 and "the luck of training" in page
    assert training_curves(made(), histories).count("<figure") == 4, "without seeds each has its own"
    long = [{"step": n + 1.0, "loss": 1.0 / (n + 1)} for n in range(5000)]
    assert len(training_curves(made(), {"adapters/long": long})) < 12_000


def test_histories_are_read_for_the_stages_of_the_record_alone(tmp_path: Path) -> None:
    for name in ("adapters/dpo-concise=1.0,warm=0.0", "adapters/old"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "history.json").write_text(json.dumps(history(1.0)))
    (tmp_path / "history.json").write_text("[]")
    record = made(stages=("adapters/dpo-concise=1.0,warm=0.0", "../up", "front/base", "."))
    assert list(read_beside(record, tmp_path / "adapters" / "..").histories) == [
        "adapters/dpo-concise=1.0,warm=0.0"
    ]
