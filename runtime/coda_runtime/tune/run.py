"""Every setting once, then the best few again in turn, each in processes of its own, as `coda bench` measures."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..backends.base import LoadOptions
from ..bench.image_set import ImageSet
from ..bench.noise import machine_warnings
from ..bench.plan import Plan
from ..bench.results import Cell, Process
from ..bench.run import SILENCE_S, Cells, Hooks, Surroundings
from ..bench.steady import undisturbed
from ..errors import BackendError
from ..format.bundle import Bundle
from ..format.parts import OPERATIONS
from ..tuned import TUNED, Figures, Record, Setting, Tuned, device_of, make_record
from .aims import Aim, Row
from .settings import Candidate, Skipped, Wanted, find_settings

KEEP = 2
"""So many settings are measured again, of each precision and operation."""
CLOSE = 1.25
"""One that took so many times the best one's time in the first round is not among them."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    `best` has the row of each (precision, operation), where one keeps the bound; `tuned` is what may be recorded.
    """

    settings: Sequence[Candidate]
    rows: Sequence[Row]
    skipped: Sequence[Skipped]
    best: Mapping[Key, Row]
    tuned: Mapping[str, Tuned]
    warnings: Sequence[str] = field(default=())

    def of(self, precision: str, operation: str) -> list[Row]:
        """Return the rows of an operation in a precision."""
        return [
            row for row in self.rows if row.operation == operation and self.settings[row.setting].precision == precision
        ]

    def lacking(self, precision: str, aim: Aim) -> str | None:
        """Return that no setting of an operation keeps the bound in a precision, and what comes nearest; else None."""
        for operation in TUNED:
            rows = [row for row in self.of(precision, operation) if row.final]
            if rows and (precision, operation) not in self.best:
                bound, fastest = (aim.bound_s or 0) * 1e3, min(row.latency_s for row in rows) * 1e3
                what = f"no setting of {operation} in {precision}"
                return f"{what} takes under {bound:g} ms, the fastest takes {fastest:.3g} ms"
        return None

    def unasked(self, precision: str, operation: str, batch: int) -> Row | None:
        """Return what would run where nothing is recorded, None where it was not measured."""
        found = (row for row in self.of(precision, operation) if self.settings[row.setting].unasked)
        return next((row for row in found if row.batch == batch), None)


def tune(
    bundle: Bundle,
    image_set: ImageSet,
    options: LoadOptions,
    wanted: Wanted,
    aim: Aim,
    *,
    batches: Sequence[int] = (),
    seconds: float = 0.3,
    rounds: int = 3,
    busy: bool = False,
    silence_s: float = SILENCE_S,
    hooks: Hooks | None = None,
) -> Outcome:
    """Measure what may run here, and choose.

    Args:
        bundle: what runs.
        image_set: real images, which encode; decode takes their ids.
        options: the device, and what else all settings share.
        wanted: bounds on what is compared.
        aim: what is chosen by.
        batches: images per call; none stand for the aim's own.
        seconds: the least time of each measurement in each process.
        rounds: how many processes measure the best few; up to as many again where other work disturbed them.
        busy: whether other work belongs to the machine: what it disturbed is recorded too.
        silence_s: a process is stopped when one call, or loading, takes longer.
        hooks: progress.

    Raises:
        BackendError: nothing may run here, or nothing did; the message gives the reasons.
        InputError: a precision that the bundle lacks, a batch that is none.
        BundleError: the bundle is broken.
    """
    hooks = hooks or Hooks()
    settings, skipped = find_settings(bundle, options, wanted)
    bundle.verify()  # once, here, so that no process pays for it
    shared = replace(options, backend="auto", precision="auto", threads=None, ignore_tuning=True)
    with Surroundings(hooks) as around, tempfile.TemporaryDirectory(prefix="coda-tune-") as name:
        measured = []
        for setting in settings:
            axes = ((setting.backend,), (setting.precision,), (options.device,), (setting.threads,))
            plan = Plan(*axes, TUNED, batches=batches or aim.batches, seconds=seconds, options=shared, detailed=False)
            measured.append(Cells(bundle, image_set, plan, Path(name), silence_s, hooks))
        for cells in measured:
            cells.run()
        finals = _finals(settings, _rows(_summarised(measured), ()), aim)
        for number in range(1, 2 * rounds):
            if number >= rounds and (busy or not _more_needed(_rows(_summarised(measured), finals), rounds)):
                break
            for index in sorted(finals, reverse=bool(number % 2)):
                measured[index].run()
        found = _summarised(measured)
    rows = _rows(found, finals)
    skipped += [
        Skipped(cell["precision"], cell["backend"], f"{cell['problem']} ({_threads(cell['threads'])})")
        for cell in found
        if cell["problem"] is not None
    ]
    if not rows:
        reasons = "; ".join(f"{of.precision}, {of.backend or 'any backend'}: {of.reason}" for of in skipped)
        raise BackendError(f"nothing of {bundle.folder} could be measured; {reasons or 'no backend is left'}")
    outcome = Outcome(settings, rows, skipped, {}, {}, machine_warnings(around.load_before, None, around.throttled))
    best, warnings = _best(outcome, aim), list(outcome.warnings)
    if any(row.disturbed for row in best.values()):
        warnings.append("other work, or another speed of the machine, disturbed every process of some of the best")
    return replace(outcome, best=best, tuned=_tuned(best, found, busy), warnings=warnings)


def record_of(outcome: Outcome, bundle: Bundle, options: LoadOptions, aim: Aim) -> Record:
    """Return what is recorded of an outcome, for the machine as it is now."""
    return make_record(bundle, device_of(options), str(aim), outcome.tuned)


def _summarised(measured: Sequence[Cells]) -> list[Cell]:
    return [cell for cells in measured for cell in cells.summarised()]


def _more_needed(rows: Sequence[Row], rounds: int) -> bool:
    """Return whether one of the best few rests on too few processes that nothing disturbed."""
    return any(row.final and (row.disturbed or row.processes < rounds) for row in rows)


def _rows(measured: Sequence[Cell], finals: Collection[int]) -> list[Row]:
    """Return a row for each operation and batch of each setting that ran.

    Of an operation and batch the processes of all settings are looked at together, so that all rest on one speed of the
    machine. Each product of matrices is taken relative to the fastest on as many threads.
    """
    fastest: dict[int | None, float] = {}
    pools: dict[tuple[str, int], list[tuple[int, Process]]] = {}
    for index, cell in enumerate(measured):
        for of in cell["measurements"]:
            pools.setdefault((of["operation"], of["batch"]), []).extend((index, process) for process in of["processes"])
            times = [seconds for process in of["processes"] for seconds in process.get("reference_s") or ()]
            fastest[cell["threads"]] = min([*times, fastest.get(cell["threads"], math.inf)])
    out = []
    for (operation, batch), pool in pools.items():
        quiet = undisturbed([_relative(process, fastest[measured[index]["threads"]]) for index, process in pool])
        for index in dict.fromkeys(index for index, _ in pool):
            own = [at for at, (of_setting, _) in enumerate(pool) if of_setting == index]
            counted = [at for at in own if at in quiet]
            latency = statistics.median(pool[at][1]["p50"] for at in counted or own)
            row = Row(index, operation, batch, latency, len(counted or own), not counted, index in finals)
            out.append(row)
    return out


def _relative(process: Process, fastest: float) -> dict[str, Any]:
    times = process.get("reference_s")
    return {
        "reference_s": None if not times else [seconds / fastest for seconds in times],
        "others": process.get("others"),
    }


def _finals(settings: Sequence[Candidate], rows: Sequence[Row], aim: Aim) -> set[int]:
    """Return what is measured again: of each precision what runs unasked, and the best few of each operation."""
    out = {row.setting for row in rows if settings[row.setting].unasked}
    for precision in dict.fromkeys(setting.precision for setting in settings):
        for operation in TUNED:
            of = [row for row in rows if row.operation == operation and settings[row.setting].precision == precision]
            best_of_each = {row.setting: row for row in reversed(aim.ranked(of))}
            ranked = aim.ranked(list(best_of_each.values()))
            near = [row for row in ranked if _time(row, aim) <= CLOSE * _time(ranked[0], aim)]
            out |= {row.setting for row in near[:KEEP]}
    return out


def _time(row: Row, aim: Aim) -> float:
    """Return the seconds that settings are compared by: of an image, or of a call."""
    return row.latency_s / row.batch if aim.throughput else row.latency_s


def _best(outcome: Outcome, aim: Aim) -> dict[Key, Row]:
    precisions = dict.fromkeys(setting.precision for setting in outcome.settings)
    found = {(name, operation): aim.best(outcome.of(name, operation)) for name in precisions for operation in TUNED}
    return {key: row for key, row in found.items() if row is not None}


def _tuned(best: Mapping[Key, Row], found: Sequence[Cell], busy: bool) -> dict[str, Tuned]:
    """Return what is recorded of each precision whose operations all have a best setting, which nothing disturbed."""
    out = {}
    for precision in dict.fromkeys(name for name, _ in best):
        rows = {operation: best[precision, operation] for operation in TUNED if (precision, operation) in best}
        if len(rows) < len(TUNED) or (not busy and any(row.disturbed for row in rows.values())):
            continue
        parts: dict[str, Setting] = {}
        for operation, row in rows.items():
            cell = found[row.setting]
            ran = {artifact["part"]: artifact["backend"] for artifact in cell["artifacts"]}
            parts |= {part: Setting(ran[part], cell["threads"]) for part in OPERATIONS[operation]}
        out[precision] = Tuned(parts, {operation: _figures(row) for operation, row in rows.items()})
    return out


def _figures(row: Row) -> Figures:
    return Figures(row.batch, row.latency_s, row.images_per_s, row.processes, row.disturbed)


def _threads(threads: int | None) -> str:
    return "threads left open" if threads is None else f"threads {threads}"
