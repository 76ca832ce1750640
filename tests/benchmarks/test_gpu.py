"""The benchmark of an accelerator: each row ends in one of three ways, and wrong numbers fail before any time is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.device import equality as of_equality
from benchmarks.device.equality import Reading, UnequalError, equality
from benchmarks.device.models import SIZES, language_model, shape_of
from benchmarks.device.rows import NotHereError, Outcome, Row, measure, table
from benchmarks.device.training_step import Ceiling, Measured, Work, figures_of, library_step
from paretune.planning.devices import KNOWN

CPU = torch.device("cpu")


def refuse() -> dict[str, float]:
    raise NotHereError("there is one device")


def broken() -> dict[str, float]:
    raise ValueError("two | three")


def test_a_row_that_fails_costs_no_other() -> None:
    said: list[Outcome] = []
    rows = [
        Row("broken", broken, 1),
        Row("not here", refuse, 1),
        Row("long", lambda: {"a": 1.0}, 1000),
        Row("well", lambda: {"seconds": 0.123456, "work": "two pairs"}, 1),
    ]
    outcomes = measure(rows, 60, said.append, CPU)
    assert outcomes == said
    assert [outcome.status for outcome in outcomes] == ["failed", "left out", "left out", "done"]
    assert outcomes[0].message == "ValueError: two | three"
    assert (
        "60 were left" in outcomes[2].message
        or "of 60 were left, and it takes about 1000" in outcomes[2].message
    )
    lines = table(outcomes, "Measured here.").splitlines()
    assert lines[0] == "Measured here."
    assert "| broken | failed | ValueError: two / three |" in lines
    assert "| not here | left out | there is one device |" in lines
    assert lines[-2:] == ["| well | seconds | 0.1235 |", "|  | work | two pairs |"]


def test_packed_and_padded_compute_the_same() -> None:
    figures = equality("tiny", [(24, (9, 7)), (1, (6, 2))], CPU, "auto")
    exact = [value for label, value in figures.items() if label.startswith("float32")]
    assert len(exact) == 2 and max(exact) < 1e-5
    rounded = [value for label, value in figures.items() if label.startswith("bfloat16")]
    assert len(rounded) == 2 and min(rounded) > 1e-4, "bfloat16 rounds, or another model was read"


@pytest.mark.parametrize("part", ["logps", "gradients"])
def test_a_wrong_packed_batch_fails(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    right = of_equality.packed

    def wrong(*arguments: object) -> Reading:
        found = right(*arguments)  # type: ignore[arg-type]
        return Reading(**{**vars(found), part: getattr(found, part) * 1.01})

    monkeypatch.setattr(of_equality, "packed", wrong)
    with pytest.raises(
        UnequalError, match="float32, " + {"logps": "log-prob", "gradients": "gradients"}[part]
    ):
        equality("tiny", [(24, (9, 7)), (1, (6, 2))], CPU, "auto")


def test_the_step_is_that_of_the_library() -> None:
    """At the start policy and reference are one, so the loss of DPO is log 2."""
    measured = library_step(language_model("tiny", CPU, torch.float32), Work(2, 24, 9))
    assert measured.loss == pytest.approx(0.693147, abs=1e-4)
    assert measured.seconds > 0 and measured.memory is None


@pytest.mark.parametrize(("size", "billions"), [("0.5b", 0.494), ("4b", 4.02), ("8b", 8.03)])
def test_sizes_are_those_of_real_models(size: str, billions: float) -> None:
    assert size in SIZES
    assert shape_of(size).parameters / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_table_stands_between_its_marks() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    written = gpu.placed(page, "| a |")
    assert written.count("| a |") == 1 and gpu.placed(written, "| b |").count("| a |") == 0
    assert written.partition(gpu.BEGIN)[0] == page.partition(gpu.BEGIN)[0]
    with pytest.raises(SystemExit, match="no place for the table"):
        gpu.placed("nothing", "| a |")


def test_without_an_accelerator_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu"]) == 2
    assert "--tiny" in capsys.readouterr().err


ROWS = (
    "machine",
    *(f"equality, attention {name}" for name in ("blocks", "varlen", "flex", "sdpa")),
    "step, 0.5B",
    "step, 0.5B, padded, reference in the loop",
    "step, 0.5B, TRL's defaults",
    "step, 8B",
    "step, 8B in 4 bits (QLoRA), checkpointing",
    "decoding, 0.5B",
    "decoding, 8B",
    "two processes, 0.5B",
    "step, 4B",
    "step, 4B, TRL's defaults",
    "step, 4B, padded, reference in the loop",
    "step, 4B, long texts, checkpointing",
)


def test_no_row_is_missing() -> None:
    assert [row.name for row in gpu.Bench(CPU, tiny=True).rows()] == list(ROWS)
    assert set(gpu.ACCELERATOR_ONLY) < set(ROWS)


@pytest.mark.parametrize(
    ("left_out", "code"), [("equality, attention varlen", 0), ("step, 8B", 1), ("two processes, 0.5B", 1)]
)
def test_the_tiny_form_fails_where_a_row_that_a_cpu_can_run_is_left_out(
    left_out: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [Row(name, refuse if name == left_out else lambda: {"a": 1.0}, 1000) for name in ROWS]
    monkeypatch.setattr(gpu.Bench, "rows", lambda bench: rows)
    assert gpu.main(["--tiny", "--out", str(tmp_path / "tiny.json")]) == code
    said = capsys.readouterr()
    assert all(name in said.out for name in ROWS)
    assert (f"a CPU can run them: {left_out} (there is one device)" in said.err) == bool(code)


def test_the_tiny_form_fails_where_time_leaves_a_row_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.Bench, "rows", lambda bench: [Row("step, 8B", lambda: {"a": 1.0}, 30)])
    assert gpu.main(["--tiny", "--budget", "5", "--out", str(tmp_path / "tiny.json")]) == 1
    assert "of 5 were left" in capsys.readouterr().err


@pytest.mark.parametrize("nf4", [False, True])
def test_the_plan_of_an_accelerator_is_of_its_attention_and_memory(nf4: bool) -> None:
    """As on a card of 80 GB, where no test has run: an attention that keeps scores would be planned far larger."""
    work, ceiling = Work(4, 700, 300), Ceiling(4e14, 1e12, KNOWN["h100"].rates["bfloat16"])

    def shares(attention: str, memory: float) -> tuple[float, object]:
        measured = Measured(0.1, memory, 0.69, attention, 80e9)
        found = figures_of(measured, shape_of("4b"), torch.bfloat16, work, False, ceiling, nf4)
        assert found["attention"] == attention
        share = found["memory that the plan says, as a share of the measured"]
        return float(share), found["within 30 % of the measured"]

    planned = shares("varlen", 1e9)[0] * 1e9
    assert shares("varlen", planned) == (pytest.approx(1.0), "yes")
    assert shares("varlen", planned / 1.4) == (pytest.approx(1.4), "no")
    assert shares("blocks", 1e9)[0] * 1e9 > planned + 1e9
