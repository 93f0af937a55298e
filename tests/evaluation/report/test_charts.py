"""Charts and their ticks."""

import pytest

from psalign.evaluation.report.charts import curve_chart, nice_ticks


def test_curve_chart_survives_a_flat_and_a_short_curve():
    assert "nan" not in curve_chart([(0, 1.0), (1, 1.0)], title="flat")
    assert "nan" not in curve_chart([(5, 0.0), (5, 0.0), (5, 0.0)], title="one step")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0.53, 0.74, [0.5, 0.6, 0.7, 0.8]), (0, 700, [0, 200, 400, 600, 800])],
)
def test_ticks_are_round_numbers_that_enclose_the_range(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)
