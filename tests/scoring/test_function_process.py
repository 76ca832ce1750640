"""A user's function that misbehaves ends in one message, and the run around it is as it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import ConfigError, ScoreError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.scoring.cache import ScoreCache
from paretune.scoring.function_scorer import FunctionScorer, checked
from paretune.scoring.scorer import build_scorer, score_dataset, score_texts
from paretune.scoring.standardise import Standardisation

FUNCTIONS = """
import ctypes, os, signal, sys, time

def ends(p, r): sys.exit(3)
def ends_at_once(p, r): os._exit(3)
def hangs(p, r):
    while True: time.sleep(0.1)
def is_killed(p, r): os.kill(os.getpid(), signal.SIGKILL)
def crashes(p, r): ctypes.string_at(0)
def closes_all(p, r): os.closerange(3, 200); return [1.0] * len(r)
def recurses(p, r): return recurses(p, r)
def is_large(p, r): return [1e308] * len(r)
def is_larger(p, r): return [10**400] * len(r)
def booleans(p, r): return [True] * len(r)
def texts(p, r): return ["1"] * len(r)
def not_a_number(p, r): return [float("nan")] * len(r)
def nothing(p, r): return None
def too_few(p, r): return [1.0]
def nested(p, r): return [[1.0]] * len(r)
def interrupts(p, r): raise KeyboardInterrupt
def by_response(p, r): return dict.fromkeys(range(len(r)), 1.0)
def unordered(p, r): return {float(len(x)) for x in r}
def one_text(p, r): return "12"
def endless(p, r):
    while True: yield 1.0
def fails_while_it_yields(p, r):
    for x in r:
        if x == "bb": raise TypeError("no " + x)
        yield 1.0
async def later(p, r): return [1.0] * len(r)
def one_array(p, r):
    import numpy as np
    return np.float64(3)
def column(p, r):
    import numpy as np
    return np.ones((len(r), 1))
def leaves_a_child(p, r):
    if os.fork():
        os._exit(5)
    time.sleep(60)
def writes_elsewhere(p, r):
    os.write(int(sys.argv[3]), b"a line of its own\\n")
    return [1.0] * len(r)
class Nameless(Exception):
    def __str__(self): raise RuntimeError("no words")
def has_no_words(p, r): raise Nameless
def asks(p, r): input("continue?")

def forks(p, r):
    os.fork()
    return [float(len(x)) for x in r]
def moves(p, r):
    os.chdir("/")
    return [float(len(x)) for x in r]
def prints(p, r):
    print("hello " * 1000)
    os.write(1, b"there")
    return [float(len(x)) for x in r]
def closes_output(p, r):
    if not sys.stdout.closed:
        sys.stdout.close()
        os.close(1)
    return [float(len(x)) for x in r]
def without_gradients(p, r):
    import torch
    torch.set_grad_enabled(False)
    return torch.tensor([float(len(x)) for x in r])
def array(p, r):
    import numpy as np
    return np.array([len(x) for x in r])
def generated(p, r): return (len(x) for x in r)
def fails_later(p, r):
    if "last" in r:
        os._exit(4)
    return [1.0] * len(r)
"""

PROMPT = (Message("user", "Hi"),)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "misbehaving.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scorer(name: str, limit: float = 30.0) -> FunctionScorer:
    return build_scorer({"objective": "mine", "function": f"misbehaving:{name}", "time_limit": limit})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ends", "raised SystemExit: 3"),
        ("ends_at_once", "ended its process with exit code 3"),
        ("is_killed", "ended its process by signal 9"),
        ("crashes", "ended its process by signal 11"),
        ("closes_all", "ended its process"),
        ("recurses", "raised RecursionError"),
        ("interrupts", "raised KeyboardInterrupt"),
        ("is_large", r"returned 1e\+308, expected a number of at most 1e\+30"),
        ("is_larger", "returned a whole number beyond float64"),
        ("booleans", "returned True, expected a number"),
        ("texts", "returned '1', expected a number"),
        ("not_a_number", "returned nan, expected a finite number"),
        ("nothing", "returned None, expected a list of 2 numbers"),
        ("too_few", r"returned shape \(1,\) for 2 responses"),
        ("by_response", r"returned \{0: 1.0, 1: 1.0\}, expected a list of 2 numbers"),
        ("unordered", r"returned \{1.0, 2.0\}, expected a list of 2 numbers"),
        ("one_text", r"returned '12', expected a list of 2 numbers"),
        ("endless", r"returned shape \(3,\) or more for 2 responses"),
        ("fails_while_it_yields", r"raised TypeError: no bb"),
        ("later", r"returned <coroutine object later.*expected a list"),
        ("one_array", r"returned .*3.*expected a list of 2 numbers"),
        ("column", r"returned shape \(2, 1\) for 2 responses"),
        ("leaves_a_child", "ended its process with exit code 5"),
        ("writes_elsewhere", "wrote into the pipe by which it answers"),
        ("has_no_words", "ended its process with exit code 1 .*no words"),
        ("asks", "raised EOFError"),
        ("nested", r"returned \[1.0\], expected a number"),
    ],
)
def test_each_way_to_fail_is_one_message_that_names_the_function(place: Path, name: str, words: str) -> None:
    with pytest.raises(ScoreError, match=rf"function 'misbehaving:{name}'.*{words}") as failure:
        score_texts(scorer(name), [PROMPT] * 2, ["a", "bb"])
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "name", ["forks", "moves", "prints", "closes_output", "without_gradients", "array", "generated"]
)
@pytest.mark.slow
def test_what_a_function_does_to_its_process_does_not_reach_the_run(
    place: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    import torch

    made = scorer(name)
    for _ in range(2):
        assert made([PROMPT] * 2, ["a", "bb"], [False] * 2).tolist() == [1.0, 2.0]
    assert Path.cwd() == place and torch.is_grad_enabled()
    assert capfd.readouterr() == ("", "")


def test_a_function_that_hangs_is_ended_at_its_limit_and_said_where_it_stood(place: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        ScoreError,
        match=r"no answer within 1 seconds \(it stands at .*misbehaving.py:\d+, hangs\); .* time_limit",
    ):
        scorer("hangs", 1.0)([PROMPT], ["a"], [False])
    assert time.monotonic() - began < 20
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    assert not children.is_file() or not [
        pid
        for pid in children.read_text().split()
        if "misbehaving:hangs" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


@pytest.mark.parametrize("limit", [0, -1, True, "soon", float("inf")])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match="time_limit"):
        build_scorer({"objective": "mine", "function": "misbehaving:ends", "time_limit": limit})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        ("import sys; sys.exit(4)", "SystemExit: 4"),
        ("import os; os._exit(5)", "ended its process with exit code 5"),
        ("def f(:", "SyntaxError"),
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("x = 1 / 0", "ZeroDivisionError"),
        ("import time; time.sleep(60)", "no answer within 1 seconds"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (tmp_path / "broken_scores.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    spec = {"objective": "mine", "function": "broken_scores:f", "time_limit": 1 if "sleep" in source else 30}
    with pytest.raises(ConfigError, match=f"'broken_scores:f'.*{words}"):
        build_scorer(spec)


def test_what_was_scored_before_a_failure_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paretune.scoring.scorer._ROWS_PER_CALL", 4)
    rows = tuple(
        Row((Message("user", f"Question {n}"),), (f"answer {n}", "last" if n == 5 else f"other {n}"))
        for n in range(6)
    )
    cache, made = ScoreCache(place / "scores.sqlite"), scorer("fails_later")
    with pytest.raises(ScoreError, match="exit code 4"):
        score_dataset(ScoredDataset((), rows), [made], cache)
    assert len(cache) == 8
    assert made([PROMPT], ["fine"], [False]).tolist() == [1.0], "a new process takes over"


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        ["1", "2"],
        [1e308, 0.0],
        [10**400, 0],
        [None, 1.0],
        [np.nan, 1.0],
        [1.0],
        np.array([True, False]),
    ],
)
def test_scorers_in_this_process_are_held_to_the_same(values: object) -> None:
    with pytest.raises(ScoreError, match="mine"):
        checked(values, 2, "mine")  # type: ignore[arg-type]


def test_data_with_scores_beyond_computing_are_refused_with_their_row() -> None:
    row = Row(PROMPT, ("a", "b"), {"mine": (1e308, 0.0)}, source="mine.jsonl:3")
    with pytest.raises(ScoreError, match=r"mine.jsonl:3: a score of 1e\+308"):
        Standardisation.of(ScoredDataset(("mine",), (row,)))
