"""The report's timeline of one call: what happens when, of each cell side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..report.charts import Axis, Step, timeline
from ..report.markup import Markup, table
from ..report.words import duration
from .cards import card
from .results import Span, Timeline
from .series import Series, key_of

_AROUND = "runtime"


def timeline_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw one call of the smallest batch of each cell."""
    shown = []
    for one in series:
        found = one.of(operation, "single-stream")
        call = found[0].get("timeline") if found else None
        if call is not None and call["seconds"] > 0:
            shown.append((one, found[0]["batch"], [*_with_gaps(call)], call["seconds"]))
    if not shown:
        return Markup("")
    names = _in_order([[span["name"] for span in spans] for _, _, spans, _ in shown])
    steps = [Step(name, {one.style: _bars(one, spans, name) for one, _, spans, _ in shown}) for name in names]
    columns = [f"{one.name}, batch {batch}" for one, batch, _, _ in shown]
    rows = [[name, *(_cell(spans, name) for _, _, spans, _ in shown)] for name in names]
    rows.append(["the whole call", *(duration(seconds) for *_, seconds in shown)])
    words = [", ".join(map(_words, spans)) for _, _, spans, _ in shown]
    chart = timeline(
        steps,
        Axis("ms from the start of the call"),
        "; ".join(f"{column}: {said}" for column, said in zip(columns, words, strict=True)),
        title=f"One call of {operation}",
    )
    return card(
        "One call, from its start to its end",
        [one for one, *_ in shown],
        chart,
        key_of([one for one, *_ in shown]),
        "Of the smallest batch, the call of median length among a few that were watched. runtime is what lies between "
        "the others: checks, copies, and the way from Python and back.",
        table(["step", *columns], rows),
        wide=True,
    )


def _bars(one: Series, spans: Sequence[Span], name: str) -> list[tuple[float, float, str]]:
    return [
        (1e3 * span["start_s"], 1e3 * span["seconds"], f"{one.name}, {_words(span)}")
        for span in spans
        if span["name"] == name
    ]


def _with_gaps(call: Timeline) -> Iterator[Span]:
    """Yield the spans of a call in the order of time, and what lies between them as those of the runtime."""
    now = 0.0
    for span in sorted(call["spans"], key=lambda span: span["start_s"]):
        if span["start_s"] > now:
            yield {"name": _AROUND, "start_s": now, "seconds": span["start_s"] - now}
        yield span
        now = max(now, span["start_s"] + span["seconds"])
    if call["seconds"] > now:
        yield {"name": _AROUND, "start_s": now, "seconds": call["seconds"] - now}


def _in_order(calls: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of all calls, in the order of time of the one with most of them, the runtime last."""
    names = dict.fromkeys(name for call in sorted(calls, key=lambda call: -len(set(call))) for name in call)
    return [*(name for name in names if name != _AROUND), *([_AROUND] if _AROUND in names else [])]


def _cell(spans: Sequence[Span], name: str) -> str:
    """Write how long a step took, and from when on; of several pieces how long in all."""
    found = [span for span in spans if span["name"] == name]
    if not found:
        return "–"
    whole = duration(sum(span["seconds"] for span in found))
    return f"{whole}, from {duration(found[0]['start_s'])}" if len(found) == 1 else f"{whole} in {len(found)} pieces"


def _words(span: Span) -> str:
    return f"{span['name']} {duration(span['seconds'])} from {duration(span['start_s'])}"
