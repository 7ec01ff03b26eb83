"""The one call: each family on each shape, prepared and measured in a process of its own; JSON after each.

Whatever ends it, gpu.json has what was measured until then, and the same call goes on there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import stage
from benchmarks.gpu.case import Case
from benchmarks.gpu.machine import describe, doctor
from benchmarks.gpu.measure import Key, Limits, Rows, measure_family
from benchmarks.gpu.plan import Contender, Turn, contenders, families, turns
from benchmarks.gpu.prepare import Settings, needs, prepare
from benchmarks.gpu.report import markdown, table
from benchmarks.gpu.shapes import check, folder
from benchmarks.gpu.stage import OVER, STOPPED, in_child
from benchmarks.gpu.wheels import BEGUN
from coda_runtime import __version__
from coda_runtime.bench.gpu_results import FORMAT, FORMAT_VERSION
from coda_runtime.bench.image_set import take_images
from coda_runtime.bench.run import bundle_facts
from coda_runtime.errors import CodaError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.precision import PRECISIONS
from coda_runtime.io.atomic_files import staged_file
from coda_runtime.io.json_fields import compact_json

GRACE = 40.0
"""Seconds that a measurement which was begun within the budget may take beyond it."""


def run_all(args: argparse.Namespace) -> None:
    """Measure what ``args`` ask for, and write ``args.out``/gpu.json and gpu.md."""
    asked = _asked(args)
    for path in (args.work, args.out):
        path.mkdir(parents=True, exist_ok=True)
    stage.METHOD = args.processes
    rows = Rows(args.work / "rows.jsonl")
    facts = _machine(args.device, args.work / "machine.json", measured=bool(rows.read()))
    for advice in (facts["doctor"] or {}).get("advice", ()):
        print(f"coda doctor: {advice}", flush=True)
    call = Call(args, asked, rows, facts)
    if args.prepare_only:
        prepare(args.shapes, asked, call.settings, call.left, call.problems)
        return
    signal.signal(signal.SIGTERM, _interrupt)  # which is how a container is stopped
    try:
        for number, turn in enumerate(call.turns, 1):
            if call.take(turn, f"[{number}/{len(call.turns)}, {call.spent()}]"):
                call.write()
    except KeyboardInterrupt:
        call.write()
        raise SystemExit(f"stopped: {call.summary()}") from None
    call.write()
    print(table(call.result()), flush=True)
    print(call.summary(), flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _asked(args: argparse.Namespace) -> tuple[str, ...]:
    """The families. Leaves with a sentence for what is not there."""
    check(args.shapes)
    known = families(args.precisions)
    for what, found, expected in (
        ("precision", args.precisions, tuple(PRECISIONS)),
        ("family", args.families or (), known),
    ):
        if unknown := [name for name in found if name not in expected]:
            raise SystemExit(f"there is no {what} {', '.join(unknown)}; expected some of {', '.join(expected)}")
    if min(args.batches) < 1 or args.seconds <= 0 or args.budget <= 0:
        raise SystemExit("--batches, --seconds and --budget are numbers over 0")
    return tuple(args.families or known)


class Call:
    """One call: what is planned, how far it is."""

    def __init__(self, args: argparse.Namespace, asked: tuple[str, ...], rows: Rows, facts: dict[str, Any]) -> None:
        self._args, self._rows, self._facts = args, rows, facts
        self._begun = float(os.environ.get(BEGUN, time.time()))
        batches = sorted(args.batches)
        profile = (batches[0], batches[len(batches) // 2], batches[-1])
        self.settings = Settings(args.work, tuple(args.precisions), profile, args.kernels, args.triton)
        self.problems: dict[str, str] = {}
        self.turns = turns(args.shapes, asked, batches)

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return float(self._begun + self._args.budget - time.time())

    def spent(self) -> str:
        """As in "02:10 of 18:00"."""
        spent, budget = int(time.time() - self._begun), int(self._args.budget)
        return f"{spent // 60:02}:{spent % 60:02} of {budget // 60:02}:{budget % 60:02}"

    def take(self, turn: Turn, where: str) -> bool:
        """Prepare and measure what has no row yet; what cannot be gets one with the reason. False if all was there."""
        members, before = self._members(turn), self._rows.read()
        todo = [key for key in _keys(turn, members) if "median_ms" not in before.get(key, {})]
        if not todo:
            return False
        print(f"{where} {turn.shape}, {turn.family}, batch {', '.join(map(str, turn.batches))}", flush=True)
        why = self._measure(turn, members) if self.left() > 0 else OVER
        if why is not None:
            print(f"  not all: {why}", flush=True)
        there = self._rows.read()
        for key in todo:
            if key not in there or (why is not None and there[key] == before.get(key)):
                self._rows.add(key, {"reason": why or "the process left no word of it"})
        return True

    def _measure(self, turn: Turn, members: Sequence[Contender]) -> str | None:
        prepare([turn.shape], [turn.family], self.settings, self.left, self.problems)
        needed = [f"{turn.shape}/{step}" for step in needs(turn.family)]
        blocked = next((f"{name}: {self.problems[name]}" for name in needed if name in self.problems), None)
        if blocked is not None:
            return blocked
        args = self._args
        make = partial(Case, args.work, turn.shape, args.device, args.compile_backend)
        deadline = self._begun + args.budget
        limits = Limits(turn.batches, args.seconds, deadline, self._facts["machine"]["ceilings"])
        return in_child(partial(measure_family, make, members, self._rows, limits), max(self.left(), 0) + GRACE)

    def _members(self, turn: Turn) -> list[Contender]:
        return [contender for contender in contenders(self._args.precisions) if contender.family == turn.family]

    def result(self) -> dict[str, Any]:
        """What gpu.json holds."""
        args, rows = self._args, list(self._rows.read().values())
        shapes = dict.fromkeys(row["shape"] for row in rows)
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "coda_runtime": __version__,
            **self._facts,
            "settings": {
                "batches": sorted({row["batch"] for row in rows}),
                "precisions": args.precisions,
                "seconds": args.seconds,
                "compile_backend": args.compile_backend,
                "engine_batch": self.settings.batch,
            },
            "shapes": {shape: found for shape in shapes if (found := _work(args.work, shape)) is not None},
            "problems": self.problems,
            "rows": rows,
        }

    def write(self) -> None:
        """Write gpu.json and gpu.md as far as they are, each whole or not at all."""
        result = self.result()
        if not result["rows"]:
            return
        for name, text in (("gpu.json", compact_json(result)), ("gpu.md", f"{markdown(result)}\n")):
            with staged_file(self._args.out / name) as beside:
                beside.write_text(text, encoding="utf-8")

    def summary(self) -> str:
        """How much of what was planned is measured, and what to do."""
        keys = [key for turn in self.turns for key in _keys(turn, self._members(turn))]
        there = self._rows.read()
        found = [there.get(key, {"reason": OVER}) for key in keys]
        measured = sum("median_ms" in row for row in found)
        late = sum(_is_late(row.get("reason", "")) for row in found)
        cannot = len(keys) - measured - late
        text = f"{measured} of {len(keys)} measured, {cannot} cannot be, in {self._args.out / 'gpu.json'}"
        return f"{text}; {late} are left: the same call goes on" if late else text


def _is_late(reason: str) -> bool:
    """Whether it might have run with more time."""
    return reason.endswith(OVER) or reason.startswith(STOPPED)


def _keys(turn: Turn, members: Sequence[Contender]) -> Iterator[Key]:
    for contender in members:
        for operation, clock in contender.operations:
            for batch in turn.batches:
                yield turn.shape, contender.name, contender.precision, operation, clock, batch


def _work(work: Path, shape: str) -> dict[str, Any] | None:
    """What was worked on, as `coda bench` tells it; None while there is no bundle."""
    try:
        bundle = Bundle.open(folder(work, shape) / "bundle")
        return {"bundle": {**bundle_facts(bundle), "folder": shape}, "images": take_images(bundle).facts()}
    except CodaError:
        return None


def _machine(device: str, to: Path, *, measured: bool) -> dict[str, Any]:
    """`describe` and `doctor`. It is the first to use the GPU: where that fails in a fork, all processes are spawned.

    Leaves with a sentence where what was ``measured`` so far is of another machine: a file is of one.
    """
    before = json.loads(to.read_text(encoding="utf-8")) if measured and to.exists() else None
    fresh = to.with_suffix(".new")
    why = in_child(partial(_describe, device, fresh), 120)
    if why is not None and stage.METHOD == "fork" and not why.startswith("DeviceError"):
        print(f"in a fork: {why}", flush=True)
        stage.METHOD = "spawn"
        why = in_child(partial(_describe, device, fresh), 120)
    if why is not None:
        raise SystemExit(f"nothing can be measured on {device}: {why.removeprefix('DeviceError: ')}")
    found: dict[str, Any] = json.loads(fresh.read_text(encoding="utf-8"))
    if before is not None:
        for name in ("device", "libraries"):
            new = found["machine"][name]
            if (old := before.get("machine", {}).get(name, new)) != new:
                raise SystemExit(
                    f"{to.parent} holds measurements of another machine, and a file is of one: {name} was {old} and is "
                    f"{new}; give --work another folder"
                )
    fresh.replace(to)
    return found


def _describe(device: str, to: Path) -> None:
    to.write_text(json.dumps({"machine": describe(device), "doctor": doctor()}), encoding="utf-8")
