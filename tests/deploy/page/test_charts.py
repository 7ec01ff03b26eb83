from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_deploy.page.charts import HEIGHT, WIDTH, Axis, Line, bar_chart, line_chart, nice_ticks

X, Y = Axis("x"), Axis("y")


def numbers_inside(svg: str) -> None:
    """Every coordinate is a finite number on the drawing."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for key, limit in (("x", WIDTH), ("x1", WIDTH), ("x2", WIDTH), ("y", HEIGHT), ("y1", HEIGHT), ("y2", HEIGHT)):
            if key in element.attrib:
                assert -1 <= float(element.attrib[key]) <= limit + 1
        for pair in element.attrib.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert -1 <= x <= WIDTH + 1
            assert -1 <= y <= HEIGHT + 1
        if element.tag == "rect":
            assert float(element.attrib["height"]) >= 0


def test_a_line_has_its_points_axes_and_words() -> None:
    svg = line_chart([Line("mean", [(1, 10), (5, 20), (14, 15)])], Axis("tokens"), Axis("dB"), "a <line>")
    numbers_inside(svg)
    assert 'aria-label="a &lt;line&gt;"' in svg
    assert ">tokens<" in svg
    assert ">dB<" in svg
    assert "<title>mean</title>" in svg
    assert len(re.search(r'points="([^"]*)"', svg).group(1).split()) == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("lines", [[], [Line("none", [])], [Line("identical", [(1, math.inf), (2, math.nan)])]])
def test_nothing_to_draw_says_so(lines: list[Line]) -> None:
    assert "nothing to show" in line_chart(lines, X, Y, "empty")


@pytest.mark.parametrize("value", [0.0, 7.0, -3.5, 1e9])
def test_a_constant_line_is_drawn(value: float) -> None:
    numbers_inside(line_chart([Line("flat", [(0, value), (1, value)])], X, Y, "flat"))
    numbers_inside(line_chart([Line("point", [(3, value)])], X, Axis("y", zero=True), "point"))


def test_logarithmic_axis_spaces_ratios_evenly() -> None:
    svg = line_chart([Line("l", [(1, 0), (10, 0), (100, 1)])], Axis("x", ticks=[1, 10, 100], log=True), Y, "log")
    x = [float(pair.split(",")[0]) for pair in re.search(r'points="([^"]*)"', svg).group(1).split()]  # type: ignore[union-attr]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)


def test_an_area_is_closed_along_zero() -> None:
    svg = line_chart([Line("use", [(0, 5), (3, 1)], "area")], X, Axis("y", zero=True), "area")
    numbers_inside(svg)
    assert "<polygon" in svg


def test_points_that_are_not_finite_are_left_out() -> None:
    svg = line_chart([Line("l", [(0, 1), (1, math.inf), (2, 3)])], X, Y, "gap")
    numbers_inside(svg)
    assert "inf" not in svg


def test_bars_side_by_side() -> None:
    svg = bar_chart(["a", "b"], [("one", [1, 2]), ("two", [3, math.nan])], "part", Axis("ms"), "bars")
    numbers_inside(svg)
    assert svg.count("<rect") == 3
    assert "<title>b: 2</title>" in svg


@pytest.mark.parametrize("groups", [[], [("one", [])]])
def test_no_bars_say_so(groups: list[tuple[str, list[float]]]) -> None:
    assert "nothing to show" in bar_chart([], groups, "part", Y, "empty")


def test_bars_of_zero_are_drawn() -> None:
    numbers_inside(bar_chart(["a", "b"], [("one", [0, 0])], "part", Y, "zero"))


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_cover_the_range_and_rise(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * max(1.0, abs(low), width)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + width - slack


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(11.9, 27.4) == [10, 15, 20, 25, 30]
