"""Which tests run where there are only minutes: all quick ones, then slow ones until the time is up, each turn from another place.

A test is quick unless it is marked ``slow``. Without these options every test that is chosen runs.
"""

from __future__ import annotations

import time

import pytest

GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole parts, are spread evenly: whatever commits are tested, all slow tests get their turn."""
LEFT = "slow, and the time for slow tests is up: another commit begins with it, and make test-all runs all"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("slow tests")
    group.addoption(
        "--slow-until", type=float, help="time, in seconds since 1970, after which no slow test begins"
    )
    group.addoption(
        "--slow-turn", type=int, default=0, help="a number that says with which slow test to begin"
    )


def is_slow(item: pytest.Item) -> bool:
    """Return whether a test is marked as slow."""
    return item.get_closest_marker("slow") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slow tests last, from where this turn begins."""
    slow = [item for item in items if is_slow(item)]
    first = int(len(slow) * (config.getoption("slow_turn") * GOLDEN % 1))
    items[:] = [item for item in items if not is_slow(item)] + slow[first:] + slow[:first]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test once the time is up, before its fixtures are made."""
    until = item.config.getoption("slow_until")
    if until is not None and is_slow(item) and time.time() > until:
        pytest.skip(LEFT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what quick and slow tests took, and how many slow ones were left for another turn."""
    every = [report for reports in terminalreporter.stats.values() for report in reports]
    phases = [report for report in every if isinstance(report, pytest.TestReport)]
    begun = min((report.start for report in phases), default=0.0)
    for kind in ("quick", "slow"):
        of_kind = [report for report in phases if ("slow" in report.keywords) == (kind == "slow")]
        if of_kind:
            ended = max(report.stop for report in of_kind) - begun
            terminalreporter.write_line(
                f"{kind} tests: {sum(report.duration for report in of_kind):.0f} s in all processes together, the last one ended "
                f"after {ended:.0f} s"
            )
    left = sum(LEFT in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if left:
        terminalreporter.write_line(
            f"{left} slow tests did not run: the time for them was up (make test-all runs all)"
        )
