"""Slow tests by turns: quick ones always run, slow ones until the time is up, and every slow one gets its turn."""

from __future__ import annotations

import re
import time

import pytest

from support.turns import GOLDEN

pytest_plugins = ["pytester"]

FILE = """
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("n", range(10))
def test_slow(n):
    print(f"slow {n}")

def test_quick():
    print("quick")
"""


def ran(pytester: pytest.Pytester, *options: str) -> tuple[list[str], pytest.RunResult]:
    """Return what the tests of the file printed, in the order in which they ran."""
    pytester.makepyfile(FILE)
    result = pytester.runpytest_inprocess(
        "-p", "support.turns", "-p", "no:cacheprovider", "-s", "-q", *options
    )
    found = [re.search(r"(quick|slow \d+)$", line) for line in result.outlines]
    return [each[1] for each in found if each], result


def test_quick_tests_come_first_and_all_run_by_default(pytester: pytest.Pytester) -> None:
    lines, result = ran(pytester)
    assert lines == ["quick", *(f"slow {n}" for n in range(10))]
    result.assert_outcomes(passed=11)


def test_a_turn_begins_at_another_slow_test(pytester: pytest.Pytester) -> None:
    lines, _ = ran(pytester, "--slow-turn", "1")
    assert lines == ["quick", *(f"slow {n % 10}" for n in range(6, 16))]
    assert {int(10 * (turn * GOLDEN % 1)) for turn in range(13)} == set(range(10)), (
        "each begins once in thirteen"
    )


def test_once_the_time_is_up_slow_tests_wait_and_it_is_said(pytester: pytest.Pytester) -> None:
    lines, result = ran(pytester, "--slow-until", "1")
    assert lines == ["quick"]
    result.assert_outcomes(passed=1, skipped=10)
    result.stdout.fnmatch_lines(["quick tests: * s in all processes together, the last one ended after * s"])
    result.stdout.fnmatch_lines(["10 slow tests did not run*make test-all*"])
    _, result = ran(pytester, "--slow-until", str(time.time() + 600))
    result.assert_outcomes(passed=11)
