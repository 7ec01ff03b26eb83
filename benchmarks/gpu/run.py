"""The one call: prepare, then every family on every shape in a process of its own, then JSON and a table."""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import stage
from benchmarks.gpu.case import Case
from benchmarks.gpu.machine import describe
from benchmarks.gpu.measure import Key, Limits, Rows, measure_family
from benchmarks.gpu.plan import Contender, contenders, families
from benchmarks.gpu.prepare import Settings, needs, prepare
from benchmarks.gpu.report import markdown, table
from benchmarks.gpu.shapes import check
from benchmarks.gpu.stage import in_child
from benchmarks.gpu.wheels import BEGUN

GRACE = 40.0
"""Seconds that a measurement which was begun within the budget may take beyond it."""


def run_all(args: argparse.Namespace) -> None:
    """Measure what ``args`` ask for, and write ``args.out``/gpu.json and gpu.md."""
    check(args.shapes)
    begun = float(os.environ.get(BEGUN, time.time()))
    deadline = begun + args.budget
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    batch = (min(args.batches), sorted(args.batches)[len(args.batches) // 2], max(args.batches))
    settings = Settings(args.work, tuple(args.precisions), batch, args.kernels)
    asked = tuple(args.families or families(args.precisions))
    if unknown := set(asked) - set(families(args.precisions)):
        raise SystemExit(f"there is no family {', '.join(unknown)}; expected some of {families(args.precisions)}")
    stage.METHOD = args.processes
    machine = _machine(args.device, args.work / "machine.json")
    problems = prepare(args.shapes, asked, settings, lambda: deadline - time.time())
    if args.prepare_only:
        return
    rows = Rows(args.work / "rows.jsonl")
    limits = Limits(tuple(args.batches), args.seconds, deadline, machine["ceilings"])
    for family in asked:
        members = [contender for contender in contenders(args.precisions) if contender.family == family]
        for shape in args.shapes:
            make = partial(Case, args.work, shape, args.device, args.compile_backend)
            work, left = partial(measure_family, make, members, rows, limits), deadline - time.time()
            started = time.time()
            why = _blocked(problems, shape, family) or in_child(work, max(left, 0) + GRACE)
            print(f"{family:<14}{shape:<14}{why or 'done'} ({time.time() - started:.0f} s)", flush=True)
            _fill(rows, shape, members, limits, why or "the process ended without a word")
    result = {
        "machine": machine,
        "settings": {"batches": args.batches, "precisions": args.precisions, "seconds": args.seconds,
                     "compile_backend": args.compile_backend, "engine_batch": batch},
        "problems": problems,
        "rows": list(rows.read().values()),
    }  # fmt: skip
    (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.out / "gpu.md").write_text(markdown(result) + "\n", encoding="utf-8")
    print(table(result), flush=True)


def _machine(device: str, to: Path) -> dict[str, Any]:
    """What `describe` says. It is the first to use the GPU: where that fails in a fork, all processes are spawned."""
    to.unlink(missing_ok=True)
    why = in_child(partial(_describe, device, to), 60)
    if why is not None and stage.METHOD == "fork":
        print(f"in a fork: {why}", flush=True)
        stage.METHOD = "spawn"
        why = in_child(partial(_describe, device, to), 120)
    if why is not None:
        raise SystemExit(f"nothing can be measured on {device}: {why}")
    found: dict[str, Any] = json.loads(to.read_text(encoding="utf-8"))
    return found


def _describe(device: str, to: Path) -> None:
    to.write_text(json.dumps(describe(device)), encoding="utf-8")


def _blocked(problems: dict[str, str], shape: str, family: str) -> str | None:
    """Why a family has nothing to run on a shape, where preparing it failed."""
    needed = [f"{shape}/{step}" for step in needs(family)]
    return next((f"{name}: {problems[name]}" for name in needed if name in problems), None)


def _fill(rows: Rows, shape: str, members: list[Contender], limits: Limits, why: str) -> None:
    """A row with the reason for everything that was planned and left none."""
    there: dict[Key, Any] = rows.read()
    for contender in members:
        for operation, clock in contender.operations:
            for batch in limits.batches:
                key = (shape, contender.name, contender.precision, operation, clock, batch)
                if key not in there:
                    rows.add(key, {"reason": why})
