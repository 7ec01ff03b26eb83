"""`coda bench run`: a matrix of cells, each measured in fresh processes, one after the other."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np

from .. import __version__
from ..errors import BackendError
from ..format.bundle import Bundle
from ..format.manifest import MANIFEST_NAME
from . import machine
from .differences import cell_name
from .image_set import ImageSet
from .noise import collect_warnings
from .plan import Plan
from .process import run_case
from .results import FORMAT, FORMAT_VERSION, BundleFacts, Cell, Results
from .statistics import MIN_PROCESSES
from .steady import undisturbed
from .summary import summarise_cell

SILENCE_S = 600.0
"""The longest that one call, or loading, may take, in seconds."""
_LOOK_S = 0.5  # how long other processes are watched before


@dataclass
class Hooks:
    """What a run tells of itself, and what tests put in its place."""

    describe: Callable[[str], object] = lambda _: None
    """What is being measured now."""
    advance: Callable[[float], object] = lambda _: None
    """So many of `steps` measurements are done."""
    watch: Callable[[], Any] = machine.CpuWatch
    sleep: Callable[[float], None] = time.sleep
    command: Sequence[str] | None = None


def steps(plan: Plan, bundle: Bundle) -> int:
    """Return the number of measurements in all."""
    return len(plan.cells(bundle.manifest.default_precision)) * len(plan.measurements()) * plan.repeat_process


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """Return the `bundle` of results.json."""
    return {
        "folder": str(bundle.folder),
        "fingerprints": list(bundle.fingerprints),
        "spec": bundle.spec.to_json(),
        "manifest_sha256": sha256((bundle.folder / MANIFEST_NAME).read_bytes()).hexdigest(),
    }


def run_bench(
    bundle: Bundle,
    image_set: ImageSet,
    plan: Plan,
    command: Sequence[str],
    *,
    silence_s: float = SILENCE_S,
    hooks: Hooks | None = None,
) -> Results:
    """Measure a bundle. A cell that cannot run becomes a cell with a problem.

    Args:
        bundle: what to measure.
        image_set: what to measure it on.
        plan: the matrix.
        command: what the user typed, for the record.
        silence_s: the process of a cell is stopped when one call, or loading, takes longer.
        hooks: progress.

    Raises:
        BackendError: no cell could run; the message gives the reasons.
        BundleError: the bundle is broken.
    """
    hooks = hooks or Hooks()
    bundle.verify()  # once, here, so that no cell pays for it
    with Surroundings(hooks) as around, tempfile.TemporaryDirectory(prefix="coda-bench-") as name:
        cells = Cells(bundle, image_set, plan, Path(name), silence_s, hooks)
        # All in turn, as often as the plan says, so that a slow hour does not hit one cell alone.
        for _ in range(plan.repeat_process):
            cells.run()
        cells.repeat_disturbed()
    return cells.results(command, around)


class Surroundings:
    """What the machine does beside the measuring: before it, and while it lasts."""

    def __init__(self, hooks: Hooks) -> None:
        self.machine = machine.describe()
        self._hooks = hooks
        self._throttle_count: int | None = None
        self.load_before: float | None = None
        self.throttled: bool | None = None

    def __enter__(self) -> Surroundings:
        watch = self._hooks.watch()
        self._hooks.sleep(_LOOK_S)
        self.load_before = watch.share()
        self._throttle_count = machine.cpu_throttle_count()
        return self

    def __exit__(self, *_: object) -> None:
        count = machine.cpu_throttle_count()
        if count is not None and self._throttle_count is not None:
            self.throttled = count > self._throttle_count


class Cells:
    """The cells of a plan, measured once with each `run`; `images` are where `folder` keeps them for the workers."""

    def __init__(
        self, bundle: Bundle, image_set: ImageSet, plan: Plan, folder: Path, silence_s: float, hooks: Hooks
    ) -> None:
        self._bundle, self._image_set, self._folder = bundle, image_set, folder
        self._silence_s, self._hooks = silence_s, hooks
        images = folder / "images.npy"
        np.save(images, image_set.images, allow_pickle=False)
        self._measurements = plan.measurements()
        self._case: dict[str, Any] = {
            "bundle": str(bundle.folder.absolute()),
            "options": plan.options.arguments(),
            "images": str(images),
            "files": list(image_set.files),
            "seconds": plan.seconds,
            "latency_bound_s": plan.latency_bound_s,
            "rates": list(plan.rates),
            "callers": list(plan.callers),
            "measurements": self._measurements,
            "detailed": plan.detailed,
        }
        self._log = [_CellLog(asked) for asked in plan.cells(bundle.manifest.default_precision)]

    def run(self) -> None:
        """Measure every cell once more, each in a process of its own; not those that could not run before."""
        for entry in self._log:
            if entry.problem is None:
                self._run(entry, self._hooks)
            else:
                self._hooks.advance(len(self._measurements))

    def repeat_disturbed(self) -> None:
        """Measure cells again of whose processes too few were undisturbed, as often at most as before.

        Where a plan asks for fewer than can be concluded from, it is as it is.
        """
        rounds = max((len(entry.runs) for entry in self._log), default=0)
        for _ in range(rounds if rounds >= MIN_PROCESSES else 0):
            disturbed = [entry for entry in self._log if entry.problem is None and entry.fewest_undisturbed() < rounds]
            for entry in disturbed:
                self._run(entry, dataclasses.replace(self._hooks, advance=lambda _: None))

    def circumstances(self) -> list[list[dict[str, Any]]]:
        """Return what the processes told of each measurement of each cell, as `steady` looks at it."""
        return [found for entry in self._log for found in entry.measured()]

    def _run(self, entry: _CellLog, hooks: Hooks) -> None:
        _run_cell(entry, {**self._case, **entry.asked}, self._folder, self._silence_s, hooks)

    def summarised(self) -> list[Cell]:
        """Return what was measured so far, where nothing was with the problem."""
        return [summarise_cell(entry.asked, entry.runs, entry.problem) for entry in self._log]

    def results(self, command: Sequence[str], around: Surroundings) -> Results:
        """Return what was measured. Raises BackendError if nothing was."""
        bundle, log = self._bundle, self._log
        cells = self.summarised()
        _check_any(cells, bundle)
        # A process that was disturbed alone is one odd number among its cell's; a cell is busy where half of them were.
        during = max((statistics.median(entry.shares) for entry in log if entry.shares), default=None)
        throttled = _throttled(log, around.throttled)
        failures = [
            (cell_name(cell), failure) for cell, entry in zip(cells, log, strict=True) for failure in entry.failures()
        ]
        return Results.check(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "command": list(command),
                "coda_runtime": __version__,
                "machine": around.machine,
                "bundle": bundle_facts(bundle),
                "images": self._image_set.facts(),
                "cells": cells,
                "noise": {
                    "load_before": around.load_before,
                    "load_during": during,
                    "throttled": throttled,
                    "warnings": collect_warnings(cells, around.load_before, during, throttled, failures),
                },
            },
            "the results",
        )


class _CellLog:
    """What the processes of a cell sent."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.runs: list[list[dict[str, Any]]] = []
        self.shares: list[float] = []
        self.problem: str | None = None

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the messages of a kind."""
        return (message for run in self.runs for message in run if message["kind"] == kind)

    def measured(self) -> list[list[dict[str, Any]]]:
        """Return what each process told of each measurement."""
        found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        for message in self.of("measured"):
            key = (message["operation"], message["scenario"], message["batch"])
            found.setdefault(key, []).append(message)
        return list(found.values())

    def fewest_undisturbed(self) -> int:
        """Return in how many processes at least each measurement was undisturbed."""
        return min((len(undisturbed(found)) for found in self.measured()), default=0)

    def failures(self) -> Iterator[str]:
        """Yield what was not measured, and why, in a cell where something was."""
        measured = any(self.of("measured"))
        if measured:
            for message in self.of("skipped"):
                what = f"{message['operation']}, {message['scenario']}, batch {message['batch']}"
                yield f"{what} could not be measured: {message['problem']}"
            if self.problem is not None:
                yield f"the rest could not be measured: {self.problem}"


def _run_cell(entry: _CellLog, case: dict[str, Any], folder: Path, silence_s: float, hooks: Hooks) -> None:
    run: list[dict[str, Any]] = []
    entry.runs.append(run)
    hooks.describe(cell_name(cast(Cell, entry.asked)))
    left = len(case["measurements"])

    def hear(message: dict[str, Any]) -> None:
        nonlocal left
        if message["kind"] != "alive":
            run.append(message)
        if message["kind"] in ("measured", "skipped"):
            left -= 1
            hooks.advance(1)

    watch = hooks.watch()
    problem = run_case(case, folder, hear, silence_s=silence_s, command=hooks.command)
    share = watch.share()
    hooks.advance(left)
    if share is not None:
        entry.shares.append(share)
    told = {kind: [message["problem"] for message in run if message["kind"] == kind] for kind in ("problem", "skipped")}
    if problem is None and not any(message["kind"] == "measured" for message in run):
        problem = next(iter(told["problem"] + told["skipped"]), None)
    entry.problem = problem


def _throttled(log: Sequence[_CellLog], by_the_kernel: bool | None) -> bool | None:
    """Return whether heat or lack of power held a clock back, None if neither the kernel nor a driver says."""
    told = [message["throttled"] for entry in log for message in entry.of("done")]
    known = [bool(value) for value in (*told, by_the_kernel) if value is not None]
    return any(known) if known else None


def _check_any(cells: Sequence[Cell], bundle: Bundle) -> None:
    if any(cell["measurements"] for cell in cells):
        return
    reasons: Mapping[str, None] = dict.fromkeys(f"{cell_name(cell)}: {cell['problem']}" for cell in cells)
    raise BackendError(f"nothing of {bundle.folder} could be measured; {'; '.join(reasons)}")
