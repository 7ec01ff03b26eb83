"""The report's bars: where the time of a call goes, memory, and loading."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.charts import Axis, Row, bar_rows
from ..report.document import keys
from ..report.markup import Markup, table
from ..report.words import duration, size
from .breakdown import DEVICE_TO_HOST, HOST_TO_DEVICE, steps_of
from .cards import card
from .results import Measurement
from .series import Series

_PARTS = {
    "files": "c4",
    HOST_TO_DEVICE: "c5",
    "encoder": "c1",
    "quantizer": "c2",
    "decoder": "c3",
    DEVICE_TO_HOST: "c7",
}
_PARTS["runtime"] = "c6"
"""In the order of a call; what else a file tells of stands before the runtime, in the colours that are left."""
_OTHERS = ("c8", "c7", "c5")
_LOAD = {"import_s": ("import", "c6"), "load_s": ("load", "c1"), "first_run_s": ("first run", "c2")}


def breakdown_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw which part of a call takes how much of it, in the smallest and the largest batch of each cell."""
    bars, rows, descriptions, shown = [], [], [], []
    styles = _styles([of for one in series for of in one.of(operation, "single-stream")])
    for one in series:
        split = [of for of in one.of(operation, "single-stream") if of["parts_s"]]
        for of in dict.fromkeys([0, len(split) - 1]) if split else ():
            measured = split[of]
            seconds = steps_of(measured)
            parts = {part: max(0.0, seconds[part] or 0.0) for part in styles if part in seconds}
            total = sum(parts.values())
            if not total > 0:
                continue
            rows += [[one.name]] * (one not in shown)
            shown.append(one)
            batch = f"batch {measured['batch']}"
            bars.append(
                Row(
                    one.name,
                    f"{batch}, {duration(total)}",
                    [
                        (f"series {styles[part]}", 100 * share / total, f"{_words(part)}: {duration(share)}")
                        for part, share in parts.items()
                    ],
                )
            )
            rows.append([batch, *(duration(parts[part]) if part in parts else "–" for part in styles)])
            descriptions.append(
                f"{one.name}, {batch}: "
                + ", ".join(f"{_words(part)} {100 * s / total:.0f} %" for part, s in parts.items())
            )
    if not bars:
        return Markup("")
    chart = bar_rows(
        bars,
        Axis("% of the call", ticks=[0, 20, 40, 60, 80, 100]),
        "; ".join(descriptions),
        title=f"Where the time of {operation} goes",
    )
    return card(
        "Where the time goes",
        shown,
        chart,
        keys(*((_words(part), f"series {style}") for part, style in styles.items())),
        "Medians of each part, and of the copies to and from a GPU; runtime is the rest of the call.",
        table(["median", *map(_words, styles)], rows),
        wide=True,
    )


def memory_card(series: Sequence[Series]) -> Markup:
    """Draw the highest peak of each cell, in host and in device memory."""
    bars, rows, descriptions, shown = [], [], [], []
    for one in series:
        load = one.cell["load"]
        host = max((of["peak_host_bytes"] or 0 for of in one.cell["measurements"]), default=0)
        device = max((of["peak_device_bytes"] or 0 for of in one.cell["measurements"]), default=0)
        for kind, style, peak in (("host", "c1", host), ("device", "c2", device)):
            if peak:
                label = f"{kind}: {one.name}"
                bars.append(Row(label, size(peak), [(f"series {style}", peak / 2**20, f"{kind}: {size(peak)}")]))
                descriptions.append(f"{label} {size(peak)}")
                shown.append(one)
        added = (load["host_bytes"], load["device_bytes"]) if load else (None, None)
        rows.append(
            [one.name, *(size(n) if n is not None else "–" for n in added), *(_known(n) for n in (host, device))]
        )
    if not bars:
        return Markup("")
    return card(
        "Memory",
        shown,
        bar_rows(bars, Axis("MiB"), "; ".join(descriptions), title="Peak memory"),
        keys(("host", "series c1"), ("device", "series c2")),
        "The highest peak over all measurements of a cell; what loading added is in the table.",
        table(["cell", "loading, host", "loading, device", "peak, host", "peak, device"], rows),
    )


def load_card(series: Sequence[Series]) -> Markup:
    """Draw how long a fresh process takes until its first ids."""
    bars, rows, descriptions, shown = [], [], [], []
    for one in series:
        load = one.cell["load"]
        if load is None:
            continue
        steps = {key: float(load[key] or 0) for key in _LOAD}  # type: ignore[literal-required]
        total = sum(steps.values())
        bars.append(
            Row(
                one.name,
                duration(total),
                [(f"series {_LOAD[k][1]}", s * 1e3, f"{_LOAD[k][0]}: {duration(s)}") for k, s in steps.items()],
            )
        )
        rows.append([one.name, *(duration(seconds) for seconds in steps.values()), duration(total)])
        descriptions.append(f"{one.name} {duration(total)}")
        shown.append(one)
    if not bars:
        return Markup("")
    return card(
        "From start to the first ids",
        shown,
        bar_rows(bars, Axis("ms"), "; ".join(descriptions), title="Load times"),
        keys(*((name, f"series {style}") for name, style in _LOAD.values())),
        "In a fresh process: importing, loading the bundle, and the first call with one image.",
        table(["cell", *(name for name, _ in _LOAD.values()), "together"], rows),
    )


def _words(step: str) -> str:
    return step.replace("_", " ")


def _styles(found: Sequence[Measurement]) -> dict[str, str]:
    """Return the parts that these tell of, in the order of a call, each with the CSS class of its colour."""
    told = dict.fromkeys(part for of in found for part in steps_of(of))
    others = [part for part in told if part not in _PARTS]
    styles = _PARTS | {part: _OTHERS[index % len(_OTHERS)] for index, part in enumerate(others)}
    *known, runtime = _PARTS
    return {part: styles[part] for part in (*known, *others, runtime) if part in told}


def _known(number: int) -> str:
    return size(number) if number else "–"
