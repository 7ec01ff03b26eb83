"""What makes a result less certain, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ..io.counts import count
from .differences import BUSY, cell_name
from .results import Cell, Measurement
from .statistics import KNOWN_FROM
from .steady import undisturbed


def collect_warnings(
    cells: Sequence[Cell],
    load_before: float | None,
    load_during: float | None,
    throttled: bool | None,
    failures: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Return the `warnings` of results.json: `failures` are (name of a cell, what it could not measure and why)."""
    out = machine_warnings(load_before, load_during, throttled)
    for cell in cells:
        for measurement in cell["measurements"]:
            out += [f"{text} ({cell_name(cell)})" for text in _about(measurement)]
    return out + [f"{failure} ({name})" for name, failure in failures]


def machine_warnings(load_before: float | None, load_during: float | None, throttled: bool | None) -> list[str]:
    """Return what the machine did beside, in words: `load_before` and `load_during` are others' shares of it."""
    out = []
    for load, when in ((load_before, "before"), (load_during, "during")):
        if load is not None and load > BUSY:
            out.append(
                f"the machine was busy: other processes used {load * 100:.0f} % of the CPU {when} the measurement; "
                "stop them, and measure again"
            )
    if throttled:
        out.append("a processor was too hot or short of power and slowed down; let it cool, and measure again")
    return out


def _about(measurement: Measurement) -> list[str]:
    out = []
    what = f"{measurement['operation']}, {measurement['scenario']}, batch {measurement['batch']}"
    if not measurement["warm"]:
        out.append(f"{what} did not warm up: the times still changed when the measurement began; raise --seconds")
    made, kept = len(measurement["processes"]), len(undisturbed(measurement["processes"]))
    if kept < made:
        disturbed = (
            f"other work, or another speed of the machine, disturbed {made - kept} of "
            f"{count(made, 'process', 'processes')}"
        )
        out.append(
            f"{what}: {disturbed}, which are left out" if kept else f"{what}: {disturbed}; they count all the same"
        )
    server = measurement["server"]
    if server is not None and server["latency_bound_s"] is not None:
        if server["max_rate"] is None:
            bound = server["latency_bound_s"] * 1e3
            out.append(f"{what}: no rate that was tried keeps the 99th percentile under {bound:g} ms")
        elif measurement["repeats"] < KNOWN_FROM[99]:
            few = f"{count(measurement['repeats'], 'request')}, of {KNOWN_FROM[99]} that it needs"
            out.append(f"{what}: its 99th percentile rests on {few}; raise --seconds")
    return out
