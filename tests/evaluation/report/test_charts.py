"""Charts and their ticks."""

import pytest

from psalign.evaluation.report.charts import (
    Axes,
    Dot,
    Series,
    curve_chart,
    label_anchor,
    nice_ticks,
    place_labels,
    scatter_axes,
    scatter_chart,
)


def test_curve_chart_survives_a_flat_and_a_short_curve():
    assert "nan" not in curve_chart([(0, 1.0), (1, 1.0)], title="flat")
    assert "nan" not in curve_chart([(5, 0.0), (5, 0.0), (5, 0.0)], title="one step")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0.53, 0.74, [0.5, 0.6, 0.7, 0.8]), (0, 700, [0, 200, 400, 600, 800])],
)
def test_ticks_are_round_numbers_that_enclose_the_range(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("box", "anchor"),
    [((100, 90, 140, 102), (100, "start")), ((10, 90, 60, 102), (60, "end")), ((60, 70, 120, 82), (90, "middle"))],
)
def test_a_label_is_fixed_where_it_is_next_to_its_dot(box, anchor):
    axes = Axes(0.0, 1.0, 0.0, 1.0)
    at, _ = axes.at(90, 0)
    assert label_anchor(axes, Dot(at, 0.5, "name", ""), box) == anchor


def test_a_chart_anchors_its_labels_so():
    """Ten dots in one place in the middle have labels on all sides."""
    series = [
        Series("ours", [Dot(5, 0.5, f"name {number}", "") for number in range(10)]),
        Series("other", [Dot(0, 0, "", ""), Dot(9, 1, "", "")]),
    ]
    axes, _, _ = scatter_axes(series)
    chart = scatter_chart(series, x_title="x", title="t")
    anchors = [label_anchor(axes, dot, box)[1] for dot, box in place_labels(axes, series)]
    assert set(anchors) == {"start", "middle", "end"}
    for one in set(anchors):
        assert chart.count(f'text-anchor="{one}">name') == anchors.count(one)
