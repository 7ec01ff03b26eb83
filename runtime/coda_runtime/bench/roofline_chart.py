"""The report's charts of what the machine could do at most: the roofline, and the share of the peak."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.charts import Axis, Line, line_chart
from ..report.markup import Markup, table
from ..report.words import rate
from .cards import by_batch, card, description, named
from .results import Measurement, Roofline
from .series import Series, key_of


def roofline_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw the arithmetic reached against the arithmetic for each byte, under the roof of the machine."""
    shown = [
        (one, [(of, roof) for of in one.of(operation, "single-stream") if (roof := of.get("roofline")) is not None])
        for one in series
    ]
    shown = [(one, found) for one, found in shown if found]
    if not shown:
        return Markup("")
    roofs, lines, rows = [], [], []
    intensities = [_intensity(roof) for _, found in shown for _, roof in found]
    for one, found in shown:
        top = found[0][1]
        ridge = top["peak_flops"] / top["peak_bytes"]
        ends = sorted({min(*intensities, ridge) / 4, ridge, max(*intensities, ridge) * 2})
        path = [(x, _allowed(top, x) / 1e9) for x in ends]
        roofs.append(Line(f"{one.name}: roof", path, f"{one.style} dashed"))
        words = [
            f"batch {of['batch']}: {_rate(_reached(of, roof))} at {rate(_intensity(roof))} FLOP a byte"
            for of, roof in found
        ]
        points = [(_intensity(roof), _reached(of, roof) / 1e9) for of, roof in found]
        lines.append(Line(one.name, points, one.style, marks=True, labels=words))
        rows.append([f"{one.name}: {_rate(top['peak_flops'])}, {rate(top['peak_bytes'] / 1e9)} GB/s"])
        rows += [
            [
                f"batch {of['batch']}",
                rate(_intensity(roof)),
                _rate(_reached(of, roof)),
                _rate(_allowed(roof, _intensity(roof))),
                f"{100 * _reached(of, roof) / _allowed(roof, _intensity(roof)):.1f} %",
            ]
            for of, roof in found
        ]
    chart = line_chart(
        [*roofs, *lines],
        Axis("FLOP a byte, at most", log=True),
        Axis("GFLOP a second", log=True),
        "; ".join(f"{row[0]}: {row[2]} of {row[3]} at {row[1]} FLOP a byte" if row[1:] else row[0] for row in rows),
        title=f"Roofline of {operation}",
    )
    return card(
        f"Roofline, {operation}",
        [one for one, _ in shown],
        chart,
        key_of([one for one, _ in shown], ("the roof", "dashed")),
        "The roof, in the headings of the table: what NumPy reached in the same process in a product of large "
        "matrices, and from memory in a large matrix times a vector. A call moves the files of its parts, and what "
        "goes in and out of them; what its layers exchange, where no cache holds it, comes on top and is not known.",
        table(["cell", "FLOP a byte, at most", "reached", "the roof there", "share"], rows),
        wide=True,
    )


def share_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw the share of the processor's peak that is reached, over the batch, where it is known."""
    shown = [
        (one, [of for of in one.of(operation, "single-stream") if of["flops_share"] is not None]) for one in series
    ]
    shown = [(one, found) for one, found in shown if found]
    if not shown:
        return Markup("")
    sizes = sorted({of["batch"] for _, found in shown for of in found})
    lines = [
        Line(
            one.name,
            [(of["batch"], 100 * (of["flops_share"] or 0)) for of in found],
            one.style,
            marks=True,
            labels=[f"batch {of['batch']}, {_share(of)}" for of in found],
        )
        for one, found in shown
    ]
    chart = line_chart(
        [*lines, Line("the peak", [(sizes[0], 100), (sizes[-1], 100)], "bound")],
        Axis("batch", ticks=sizes, log=True),
        Axis("% of the peak", ticks=[0, 20, 40, 60, 80, 100], zero=True),
        description(named(shown), _share),
        title=f"Share of the peak that {operation} reaches",
    )
    return card(
        f"Share of the peak, {operation}",
        [one for one, _ in shown],
        chart,
        key_of([one for one, _ in shown], ("the peak", "bound")),
        "Of what a product of large matrices by NumPy reaches in the same process.",
        by_batch([(one.name, [("", found, _share)]) for one, found in shown], sizes, "share, at batch"),
    )


def _intensity(roof: Roofline) -> float:
    return roof["flops"] / roof["min_bytes"]


def _allowed(roof: Roofline, intensity: float) -> float:
    """Return operations a second that the machine allows for so many of them a byte."""
    return min(roof["peak_flops"], roof["peak_bytes"] * intensity)


def _reached(of: Measurement, roof: Roofline) -> float:
    return roof["flops"] / max(of["latency_s"]["p50"], 1e-9)


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP/s"


def _share(of: Measurement) -> str:
    return "–" if of["flops_share"] is None else f"{100 * of['flops_share']:.1f} %"
