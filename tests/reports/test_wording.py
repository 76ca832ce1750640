"""Words and numbers of the report."""

from paretune.reports.wording import NOTHING, duration


def test_a_duration_has_the_unit_of_its_size():
    seconds = (0.4, 80, 100, 7500, 86_400 * 3, 86_400 * 5)
    assert [duration(s) for s in seconds] == ["0.4 s", "80.0 s", "1.7 min", "2.1 h", "72.0 h", "5.0 days"]
    assert duration(None) == duration(float("nan")) == NOTHING
