from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.report.charts import (
    HEIGHT,
    WIDTH,
    Axis,
    Band,
    Line,
    Note,
    Row,
    Step,
    bar_chart,
    bar_rows,
    line_chart,
    log_ticks,
    nice_ticks,
    timeline,
)
from tests.runtime.report.drawings import check_on_the_drawing

X, Y = Axis("x"), Axis("y")


def numbers_inside(svg: str) -> None:
    """Every coordinate is a finite number on a drawing of the usual size."""
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}"
    check_on_the_drawing(root)


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


@pytest.mark.parametrize(("low", "high"), [(33, 46), (21, 99), (2.1, 2.2), (0.11, 900)])
def test_a_narrow_logarithmic_axis_has_ticks_too(low: float, high: float) -> None:
    svg = line_chart([Line("l", [(low, 1), (high, 2)])], Axis("x", log=True), Y, "narrow")
    numbers_inside(svg)
    marks = re.findall('class="tick" x1="[^"]*" x2="[^"]*" y1="234" y2="239"', svg)
    assert 2 <= len(marks) <= 9


def test_nothing_has_no_place_on_a_logarithmic_axis() -> None:
    log = Axis("log", log=True)
    line = Line("l", [(0, 1), (1, 0), (2, 3), (20, 30)], marks=True, labels=["a", "b", "c", "d"])
    band = Band("band", [(0, 1, 2), (2, 0, 3), (2, 3, 4)])
    svg = line_chart([line], log, log, "gaps", bands=[band], notes=[Note("lost", 0, 1)])
    numbers_inside(svg)
    assert re.findall("<title>l: (.)</title>", svg) == ["c", "d"], "each mark keeps its words"
    assert "lost" not in svg


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


@given(st.floats(1e-6, 1e6), st.floats(1, 1e8))
def test_logarithmic_ticks_cover_the_range_and_rise(low: float, times: float) -> None:
    ticks = log_ticks(low, low * times)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= low * (1 + 1e-6)
    assert ticks[-1] >= low * times * (1 - 1e-6)


def test_logarithmic_ticks_are_round() -> None:
    assert log_ticks(1.3, 40) == [1, 2, 5, 10, 20, 50]
    assert log_ticks(3, 4000) == [1, 10, 100, 1000, 10000]
    assert log_ticks(7, 7) == [5, 10]


def test_a_band_goes_up_and_back() -> None:
    svg = line_chart([], X, Y, "band", bands=[Band("p50 to p99", [(1, 2, 3), (2, 4, 8)], "c1")])
    numbers_inside(svg)
    (points,) = re.findall(r'<polygon class="band c1" points="([^"]*)"', svg)
    x, y = zip(*(map(float, pair.split(",")) for pair in points.split()), strict=True)
    assert x[:2] == x[:1:-1]
    assert y[1] > y[2]  # the high end is above
    assert "<title>p50 to p99</title>" in svg


def test_marks_say_their_values() -> None:
    svg = line_chart([Line("l", [(1, 2), (3, 4)], marks=True)], X, Y, "marks")
    assert "<title>l: 1, 2</title>" in svg
    svg = line_chart([Line("l", [(1, 2), (3, 4)], marks=True, labels=["one", "two"])], X, Y, "marks")
    assert svg.count("<circle") == 2
    assert "<title>l: two</title>" in svg


def test_a_title_is_the_name_and_the_words_the_description() -> None:
    svg = line_chart([Line("l", [(1, 2)])], X, Y, "what there is", title="Name")
    assert "<title>Name</title><desc>what there is</desc>" in svg
    assert "aria-label" not in svg


def test_bars_that_lie_follow_each_other() -> None:
    rows = [
        Row("a", "3 s", [("one", 1, "first: 1"), ("two", 2, "second: 2")]),
        Row("b", "6 s", [("one", 6, "first: 6")]),
    ]
    svg = bar_rows(rows, Axis("s"), "rows")
    bars = [{k: float(e.attrib[k]) for k in ("x", "y", "width")} for e in ElementTree.fromstring(svg).iter("rect")]
    assert bars[0]["x"] + bars[0]["width"] == pytest.approx(bars[1]["x"], abs=0.2)
    assert bars[1]["width"] == pytest.approx(2 * bars[0]["width"], abs=0.2)
    assert bars[2]["width"] == pytest.approx(6 * bars[0]["width"], abs=0.3)
    assert bars[0]["y"] == bars[1]["y"] < bars[2]["y"]
    assert ">3 s</text>" in svg
    assert "<title>second: 2</title>" in svg


def test_long_labels_of_rows_are_cut_in_the_middle_and_kept_whole_beside() -> None:
    long = f"the first words of it{'x' * 80}and the last"
    svg = bar_rows([Row(long, "3 s", [("one", 1, "")])], Y, "long")
    (short,) = re.findall(f"<title>{long}</title>([^<]*)</text>", svg)
    assert len(short) == 59
    assert re.fullmatch("the first words of itx+…x+and the last", short)


@pytest.mark.parametrize("rows", [[], [Row("a", "", [])], [Row("a", "", [("one", 0, "")])]])
def test_no_rows_say_so(rows: list[Row]) -> None:
    assert "nothing to show" in bar_rows(rows, Y, "empty")


def test_large_numbers_on_axes_are_short() -> None:
    svg = line_chart([Line("l", [(0, 2e6), (1, 5e5)])], X, Axis("y", ticks=[9900, 99000, 500000, 2500000]), "large")
    assert re.findall(r">([\d.,kM]+)</text>", svg)[:4] == ["9,900", "99k", "500k", "2.5M"]


def test_a_note_rings_its_point_and_stays_on_the_drawing() -> None:
    points = [(0.0, 1.0), (5.0, 2.0), (10.0, 30.0)]
    notes = [Note("left", *points[0], "series c1"), Note("right", *points[2], "series c2")]
    svg = line_chart([Line("l", points, "series c1", marks=True)], X, Y, "notes", notes=notes)
    numbers_inside(svg)
    root = ElementTree.fromstring(svg)
    marks = [(of.attrib["cx"], of.attrib["cy"]) for of in root.iter("circle") if of.attrib["class"] == "series c1"]
    rings = [of for of in root.iter("circle") if of.attrib["class"].startswith("ring ")]
    assert [(of.attrib["cx"], of.attrib["cy"]) for of in rings] == [marks[0], marks[2]]
    words = {of.text: of.attrib for of in root.iter("text") if of.text in ("left", "right")}
    assert [words[name]["text-anchor"] for name in ("left", "right")] == ["start", "end"], "away from the edges"
    assert float(words["left"]["y"]) < float(rings[0].attrib["cy"])
    assert float(words["right"]["y"]) > float(rings[1].attrib["cy"]), "there is no room above the highest"


def test_words_of_notes_do_not_lie_on_each_other() -> None:
    notes = [Note(name, 5.0, 2.0 + n / 100) for n, name in enumerate("abc")]
    svg = line_chart([Line("l", [(0.0, 1.0), (10.0, 30.0)])], X, Y, "notes", notes=notes)
    numbers_inside(svg)
    at = [float(of.attrib["y"]) for of in ElementTree.fromstring(svg).iter("text") if of.text in ("a", "b", "c")]
    assert min(later - earlier for earlier, later in pairwise(at)) >= 16


def test_a_timeline_has_a_row_for_each_step_and_a_lane_for_each_style() -> None:
    steps = [
        Step("read", {"c1": [(0, 1, "a: read")], "c2": [(0, 2, "b: read")]}),
        Step("wait", {"c1": [(1, 1, "a: wait"), (4, 0, "a: nothing")], "c2": []}),
        Step("run", {"c1": [(2, 2, "a: run")], "c2": [(2, 6, "b: run")]}),
    ]
    svg = timeline(steps, Axis("ms"), "rows", title="One call")
    root = ElementTree.fromstring(svg)
    check_on_the_drawing(root)
    bars = {
        of[0].text: {key: float(of.attrib[key]) for key in ("x", "y", "width", "height")} for of in root.iter("rect")
    }
    assert bars["a: read"]["x"] == bars["b: read"]["x"]
    assert bars["b: read"]["width"] == pytest.approx(2 * bars["a: read"]["width"], abs=0.2)
    assert bars["a: wait"]["x"] == pytest.approx(bars["a: read"]["x"] + bars["a: read"]["width"], abs=0.2)
    assert bars["a: nothing"]["width"] == 1.5, "it can be seen"
    lowest_of_read = bars["b: read"]["y"] + bars["b: read"]["height"]
    assert bars["a: read"]["y"] + bars["a: read"]["height"] <= bars["b: read"]["y"]
    assert lowest_of_read < bars["a: wait"]["y"] == bars["a: nothing"]["y"] < bars["a: run"]["y"]
    labels = {of.text: float(of.attrib["x"]) for of in root.iter("text") if of.text in ("read", "wait", "run")}
    assert len(labels) == 3
    assert max(labels.values()) < bars["a: read"]["x"]


@pytest.mark.parametrize("steps", [[], [Step("a", {})], [Step("a", {"c1": [(0, 0, "nothing")]})]])
def test_no_time_says_so(steps: list[Step]) -> None:
    assert "nothing to show" in timeline(steps, Axis("ms"), "empty")
