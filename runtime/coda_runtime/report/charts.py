"""Lines, bars and timelines as inline SVG; colours and fonts come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .markup import Markup, el, join

WIDTH, HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 12, 14, 46
_ROW = 44  # a label and a bar
_LINE, _LETTER = 17, 10  # of words
_LANE = 11  # a bar of a timeline
_NAMES = 104  # what its labels take
_MAX_LENGTH = 62  # characters of a label and of the words at its end


@dataclass(frozen=True)
class Line:
    """Points of one line; those that an axis has no place for (not finite, or 0 on a log axis) are left out.

    ``style`` is a CSS class, or several. ``marks`` puts a dot on each point, which then says its value when pointed at;
    ``labels`` are these words.
    """

    label: str
    points: Sequence[tuple[float, float]]
    style: str = "line"
    marks: bool = False
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Band:
    """The area between two values at each x: (x, low, high), all finite. ``style`` is a CSS class, or several."""

    label: str
    points: Sequence[tuple[float, float, float]]
    style: str = "line"


@dataclass(frozen=True)
class Axis:
    """What an axis shows. ``ticks`` None chooses round numbers; ``zero`` starts the axis at 0; ``log`` needs x > 0."""

    label: str
    ticks: Sequence[float] | None = None
    zero: bool = False
    log: bool = False


@dataclass(frozen=True)
class Row:
    """One horizontal bar: a label above its start, words above its end, and segments (CSS class, value, words)."""

    label: str
    end: str
    segments: Sequence[tuple[str, float, str]]


@dataclass(frozen=True)
class Note:
    """A ring around one point of a line chart, with words beside it. ``style`` is a CSS class, or several."""

    words: str
    x: float
    y: float
    style: str = "line"


@dataclass(frozen=True)
class Step:
    """One row of a timeline: its label, and for each lane, by CSS class, bars of (start, length, words)."""

    label: str
    lanes: Mapping[str, Sequence[tuple[float, float, str]]]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers that cover [low, high], about ``count`` of them; nearly equal ends are spread first."""
    size = max(abs(low), abs(high))
    if high - low < max(1e-9 * size, 1e-12):
        low, high = low - max(0.5, 1e-3 * size), high + max(0.5, 1e-3 * size)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, with 2 and 5 times them where there is room, that cover [low, high]; both above 0."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    step = max(1, math.ceil((last - first) / 6))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [float(f"{factor}e{power}") for power in range(first, last + step, step) for factor in factors]
    begin = max((tick for tick in ticks if tick <= low * (1 + 1e-9)), default=ticks[0])
    end = min((tick for tick in ticks if tick >= high * (1 - 1e-9) and tick > begin), default=ticks[-1])
    return [tick for tick in ticks if begin <= tick <= end]


def line_chart(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    alt: str,
    *,
    title: str = "",
    bands: Sequence[Band] = (),
    notes: Sequence[Note] = (),
) -> Markup:
    """Draw lines over two axes, bands under them and notes above.

    ``alt`` says in words what is to be seen, ``title`` names it.
    """
    kept = [
        replace(
            line,
            points=[line.points[i] for i in shown],
            labels=[line.labels[i] for i in shown] if line.labels else (),
        )
        for line in lines
        for shown in [[i for i, (a, b) in enumerate(line.points) if _has_place(a, x) and _has_place(b, y)]]
    ]
    bands = [replace(of, points=[p for p in of.points if _has_place(p[0], x) and _has_place(p[1], y)]) for of in bands]
    notes = [note for note in notes if _has_place(note.x, x) and _has_place(note.y, y)]
    points = [point for line in kept for point in line.points]
    points += [(a, edge) for band in bands for a, low, high in band.points for edge in (low, high)]
    if not points:
        return _svg(alt, _nothing(), title=title)
    x_ticks, to_x = _scale(x, [a for a, _ in points], _LEFT, WIDTH - _RIGHT, tight=True)
    y_ticks, to_y = _scale(y, [b for _, b in points], HEIGHT - _BOTTOM, _TOP)
    areas = [
        el(
            "polygon",
            el("title", band.label),
            class_=f"band {band.style}",
            points=" ".join(
                [f"{to_x(a):.1f},{to_y(low):.1f}" for a, low, _ in band.points]
                + [f"{to_x(a):.1f},{to_y(high):.1f}" for a, _, high in reversed(band.points)]
            ),
        )
        for band in bands
        if band.points
    ]
    shapes = [
        el(
            "polyline" if line.style != "area" else "polygon",
            el("title", line.label),
            class_=line.style,
            points=" ".join(f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in _closed(line)),
        )
        for line in kept
        if line.points
    ]
    marks = [
        el(
            "circle",
            el("title", f"{line.label}: {line.labels[index]}" if line.labels else f"{line.label}: {a:g}, {b:g}"),
            class_=line.style,
            cx=to_x(a),
            cy=to_y(b),
            r=3.2,
        )
        for line in kept
        if line.marks
        for index, (a, b) in enumerate(line.points)
    ]
    rings = _notes([(note, to_x(note.x), to_y(note.y)) for note in notes])
    return _svg(alt, _y_axis(y, y_ticks, to_y), _x_axis(x, x_ticks, to_x), areas, shapes, marks, rings, title=title)


def bar_chart(
    categories: Sequence[str], groups: Sequence[tuple[str, Sequence[float]]], x_label: str, y: Axis, alt: str
) -> Markup:
    """Draw upright bars: each category has one bar of every (CSS class, values) group, side by side, from 0."""
    values = [value for _, series in groups for value in series if math.isfinite(value)]
    if not categories or not values:
        return _svg(alt, _nothing())
    y_ticks, to_y = _scale(Axis(y.label, y.ticks, zero=True), values, HEIGHT - _BOTTOM, _TOP)
    slot = (WIDTH - _LEFT - _RIGHT) / len(categories)
    width = slot * 0.76 / len(groups)
    bars, labels = [], []
    for index, category in enumerate(categories):
        middle = _LEFT + slot * (index + 0.5)
        labels.append(_label(middle, HEIGHT - _BOTTOM + 18, category))
        for position, (style, series) in enumerate(groups):
            value = series[index]
            if not math.isfinite(value):
                continue
            left = middle + (position - len(groups) / 2) * width
            top, base = to_y(max(value, 0)), to_y(min(value, 0))
            title = el("title", f"{category}: {value:g}")
            bars.append(el("rect", title, class_=style, x=left, y=top, width=width * 0.94, height=base - top))
    return _svg(alt, _y_axis(y, y_ticks, to_y), bars, labels, _x_name(x_label))


def bar_rows(rows: Sequence[Row], x: Axis, alt: str, *, title: str = "") -> Markup:
    """Draw horizontal bars, one a row under its label, of segments side by side from 0; as high as the rows need."""
    totals = [sum(value for _, value, _ in row.segments) for row in rows]
    if not rows or not max(totals) > 0:
        return _svg(alt, _nothing(), title=title)
    left, base = 8, 6 + _ROW * len(rows)
    ticks, to_x = _scale(replace(x, zero=True), totals, left, WIDTH - 24)
    shapes = []
    for index, row in enumerate(rows):
        top, start = 6 + _ROW * index, 0.0
        # Behind the bar alone: a line through the label would be read as a letter.
        shapes += [el("line", class_="grid", x1=to_x(t), x2=to_x(t), y1=top + 18, y2=top + 37) for t in ticks]
        short = _shortened(row.label, _MAX_LENGTH - len(row.end))
        shapes.append(el("text", el("title", row.label), short, class_="row", x=left, y=top + 14, text_anchor="start"))
        shapes.append(el("text", row.end, class_="axis row", x=WIDTH - 8, y=top + 14, text_anchor="end"))
        for style, value, words in row.segments:
            width = to_x(start + value) - to_x(start)
            shapes.append(
                el("rect", el("title", words), class_=style, x=to_x(start), y=top + 20, width=width, height=15)
            )
            start += value
    labels = [_label(to_x(t), base + 17, _number(t)) for t in ticks]
    name = el("text", x.label, class_="axis", x=WIDTH / 2, y=base + 38, text_anchor="middle")
    return _svg(alt, shapes, labels, name, title=title, height=base + 46)


def timeline(steps: Sequence[Step], x: Axis, alt: str, *, title: str = "") -> Markup:
    """Draw what happens when, from 0 on: a row for each step, in it a bar for each time, a lane for each CSS class."""
    styles = list(dict.fromkeys(style for step in steps for style in step.lanes))
    ends = [start + length for step in steps for bars in step.lanes.values() for start, length, _ in bars]
    if not ends or not max(ends) > 0:
        return _svg(alt, _nothing(), title=title)
    row = 14 + _LANE * len(styles)
    base = 6 + row * len(steps)
    ticks, to_x = _scale(replace(x, zero=True), ends, _NAMES, WIDTH - _RIGHT)
    shapes = [el("line", class_="grid", x1=to_x(t), x2=to_x(t), y1=6, y2=base) for t in ticks]
    for index, step in enumerate(steps):
        top = 6 + row * index
        shapes.append(_label(_NAMES - 10, top + row / 2 + 4.5, step.label, anchor="end"))
        for style, bars in step.lanes.items():
            y = top + 7 + _LANE * styles.index(style)
            shapes += [
                # However short it is, it can be seen.
                el(
                    "rect",
                    el("title", words),
                    class_=style,
                    x=to_x(start),
                    y=y,
                    width=max(1.5, to_x(start + length) - to_x(start)),
                    height=_LANE - 2,
                )
                for start, length, words in bars
            ]
    labels = [_label(to_x(t), base + 17, _number(t)) for t in ticks]
    name = el("text", x.label, class_="axis", x=(_NAMES + WIDTH) / 2, y=base + 38, text_anchor="middle")
    return _svg(alt, shapes, labels, name, title=title, height=base + 46)


def _notes(placed: Sequence[tuple[Note, float, float]]) -> Markup:
    """Draw notes, the words of each where the drawing has room for them, and under those of one that is there."""
    rings, taken = [], list[tuple[float, float, float]]()
    for note, x, y in placed:
        left = x > (_LEFT + WIDTH) / 2
        long = _LETTER * len(note.words)
        start, end = (x - 11 - long, x - 11) if left else (x + 11, x + 11 + long)
        at = y + (20 if y < _TOP + 20 else -9)
        while any(abs(at - line) < _LINE and start < last and first < end for first, last, line in taken):
            at += _LINE
        taken.append((start, end, at))
        rings.append(el("circle", el("title", note.words), class_=f"ring {note.style}", cx=x, cy=y, r=7))
        place = {"x": x + (-11 if left else 11), "y": at, "text_anchor": "end" if left else "start"}
        rings.append(el("text", note.words, class_="note", **place))
    return join(rings)


def _has_place(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _scale(
    axis: Axis, values: Sequence[float], start: float, end: float, *, tight: bool = False
) -> tuple[list[float], Callable[[float], float]]:
    """Return ticks, and the map from values to coordinates; ``tight`` ends the axis at the values, not at the ticks."""
    low, high = min(values), max(values)
    low = min(0.0, low) if axis.zero else low
    chosen = log_ticks if axis.log else nice_ticks
    ticks = list(axis.ticks) if axis.ticks is not None else chosen(low, high)
    if not tight or not high > low:
        low, high = min([low, *ticks]), max([high, *ticks])
    elif axis.log and axis.ticks is None and sum(low <= t <= high for t in ticks) < 2:  # between two powers of ten
        ticks = nice_ticks(low, high)
    if not high > low:  # one given tick, at the only value
        low, high = low - 0.5, high + 0.5
    bend: Callable[[float], float] = math.log if axis.log else float
    first, last = bend(low), bend(high)
    return [t for t in ticks if low <= t <= high], lambda v: start + (bend(v) - first) / (last - first) * (end - start)


def _closed(line: Line) -> list[tuple[float, float]]:
    """Close an area along zero."""
    if line.style != "area":
        return list(line.points)
    return [(line.points[0][0], 0), *line.points, (line.points[-1][0], 0)]


def _y_axis(axis: Axis, ticks: Sequence[float], position: Callable[[float], float]) -> Markup:
    grid = [el("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=position(t), y2=position(t)) for t in ticks]
    labels = [_label(_LEFT - 8, position(t) + 4.5, _number(t), anchor="end") for t in ticks]
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    name = el(
        "text", axis.label, class_="axis", x=14, y=middle, text_anchor="middle", transform=f"rotate(-90 14 {middle})"
    )
    return join(grid, labels, name)


def _x_axis(axis: Axis, ticks: Sequence[float], position: Callable[[float], float]) -> Markup:
    base = HEIGHT - _BOTTOM
    marks = [el("line", class_="tick", x1=position(t), x2=position(t), y1=base, y2=base + 5) for t in ticks]
    line = el("line", class_="tick", x1=_LEFT, x2=WIDTH - _RIGHT, y1=base, y2=base)
    return join(line, marks, [_label(position(t), base + 19, _number(t)) for t in ticks], _x_name(axis.label))


def _shortened(text: str, length: int) -> str:
    """Cut out of the middle what does not fit: names differ at their ends. The whole is elsewhere."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[-end:]}"


def _x_name(text: str) -> Markup:
    if not text:
        return Markup("")
    return el("text", text, class_="axis", x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle")


def _label(x: float, y: float, text: str, anchor: str = "middle") -> Markup:
    return el("text", text, x=x, y=y, text_anchor=anchor)


def _number(value: float) -> str:
    if abs(value) >= 1e4:  # longer ones reach the name of the axis
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _nothing() -> Markup:
    return _label(WIDTH / 2, HEIGHT / 2, "nothing to show")


def _svg(alt: str, *children: Markup | list[Markup], title: str = "", height: int = HEIGHT) -> Markup:
    """Wrap a drawing. ``alt`` describes it; without a title it is its name too."""
    words = [el("title", title), el("desc", alt)] if title else []
    name = None if title else alt
    return el("svg", words, *children, class_="chart", viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=name)
