"""What stages spend is counted once each, and adds up to what the process spent."""

from __future__ import annotations

import time

import pytest

from paretune.core.meter import (
    FIGURES,
    Counts,
    Meter,
    Spent,
    count_read,
    count_sampled,
    counts,
    current,
    figures,
    metered,
    shares,
    summed,
)

SPENT = Spent(cpu_seconds=3.0, tokens_read=10, tokens_sampled=4, peak_bytes=7)


def test_what_an_inner_meter_measures_is_left_out_of_the_outer_one() -> None:
    with metered() as outer:
        count_read(5)
        with metered() as inner:
            count_read(7)
            count_sampled(2)
            with metered() as innermost:
                count_sampled(30)
            time.sleep(0.02)
        count_read(1)
    assert (innermost.spent["tokens_read"], innermost.spent["tokens_sampled"]) == (0, 30)
    assert (inner.spent["tokens_read"], inner.spent["tokens_sampled"]) == (7, 2)
    assert (outer.spent["tokens_read"], outer.spent["tokens_sampled"]) == (6, 0)
    assert (outer.whole.tokens_read, outer.whole.tokens_sampled) == (13, 32)
    own = outer.own.more(inner.own).more(innermost.own)
    assert own.seconds == pytest.approx(outer.whole.seconds) and inner.seconds >= 0.02 > outer.seconds
    assert own.cpu_seconds == pytest.approx(outer.whole.cpu_seconds)


def test_what_an_earlier_process_spent_is_carried_and_no_outer_meter_sees_it() -> None:
    with metered() as outer:
        with metered() as inner:
            count_read(5)
            inner.carry(100.0, SPENT)
            assert inner.spent["tokens_read"] == 15 and inner.spent["tokens_sampled"] == 4
            assert 100 <= inner.seconds < 101 and 3 <= inner.spent["cpu_seconds"] < 4
            assert inner.spent["peak_bytes"] > SPENT["peak_bytes"], "this process had more"
            inner.carry(0.0, {**SPENT, "peak_bytes": 1 << 60})
            assert inner.spent["peak_bytes"] == 1 << 60 and inner.spent["tokens_read"] == 25
        count_read(1)
    assert outer.spent["tokens_read"] == 1 and outer.whole.tokens_read == 6 and outer.seconds < 1


def test_a_meter_left_by_an_error_is_left_out_and_no_longer_current() -> None:
    with metered() as outer:
        with pytest.raises(ZeroDivisionError), metered():
            count_read(3)
            1 / 0  # noqa: B018
        assert current() is outer
        assert outer.spent["tokens_read"] == 0 and outer.whole.tokens_read == 3


def test_a_stopped_meter_keeps_its_figures_and_the_rest_belongs_to_the_outer_one() -> None:
    with metered() as outer, metered() as inner:
        count_read(2)
        inner.stop()
        count_read(5)
        inner.stop()
    assert inner.spent["tokens_read"] == 2 and outer.spent["tokens_read"] == 5


def test_work_of_the_processor_is_counted_and_sleep_is_not() -> None:
    meter, until = Meter(), counts().cpu_seconds + 0.1
    while counts().cpu_seconds < until:
        pass
    time.sleep(0.2)
    meter.stop()
    assert 0.1 <= meter.spent["cpu_seconds"] < meter.seconds - 0.1
    held = bytearray(1 << 20)
    assert meter.spent["peak_bytes"] > 10 * len(held), (
        "a process of Python has tens of megabytes, counted in bytes"
    )


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_shares_add_up_to_the_whole(parts: int) -> None:
    divided = shares(SPENT, parts)
    assert len(divided) == parts and all(isinstance(each["tokens_read"], int) for each in divided)
    assert summed(divided) == SPENT | {"cpu_seconds": pytest.approx(3.0)}


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    assert summed([SPENT, None]) is None and summed([]) is None and shares(SPENT, 0) == []


def test_figures_have_all_names_and_tokens_a_second_of_wall_time() -> None:
    known = figures(7.0, SPENT)
    assert tuple(known) == FIGURES == tuple(figures(1.0, None))
    assert known["tokens_per_second"] == 2.0 and figures(0.0, SPENT)["tokens_per_second"] is None
    assert figures(1.0, None) == dict.fromkeys(FIGURES) | {"seconds": 1.0}


def test_differences_and_sums_of_counts() -> None:
    assert Counts(3.0, 2.0, 5, 4).less(Counts(1.0, 0.5, 2, 1)) == Counts(2.0, 1.5, 3, 3)
