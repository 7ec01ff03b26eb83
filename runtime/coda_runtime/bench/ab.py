"""Two bundles, versions or settings in turn: each process of A beside one of B, so that what drifts hits both."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..errors import InputError
from ..format.bundle import Bundle
from .compare import Comparison, checked_threshold, compare
from .image_set import ImageSet
from .plan import Plan
from .results import Cell, Results
from .run import SILENCE_S, Cells, Hooks, Surroundings
from .statistics import MIN_PAIRS, PAIRS
from .steady import undisturbed_pairs


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two: a bundle, what to measure of it, in one cell, and the command of its worker, None for our own."""

    name: str
    bundle: Bundle
    plan: Plan
    command: Sequence[str] | None = None


def run_ab(
    a: Side,
    b: Side,
    image_set: ImageSet,
    typed: Sequence[str],
    *,
    pairs: int = PAIRS,
    threshold: float = 0.05,
    silence_s: float = SILENCE_S,
    hooks: Hooks | None = None,
) -> Comparison:
    """Measure both, process by process in turn (A B, B A, ...), and compare the pairs.

    Args:
        a: the older.
        b: the newer.
        image_set: what both run on.
        typed: what the user typed, for the record.
        pairs: how many processes of each; under statistics.MIN_PAIRS nothing is concluded.
        threshold: how much slower is a regression, a share.
        silence_s: a process is stopped when one call, or loading, takes longer.
        hooks: progress.

    Raises:
        BackendError: one of them could not run at all.
        InputError: they do other measurements, or in several cells; or the threshold is no share.
    """
    hooks = hooks or Hooks()
    checked_threshold(threshold)  # before minutes of measuring
    if a.plan.measurements() != b.plan.measurements():
        raise InputError("A and B are to be measured differently; give both the same operations, scenarios and batches")
    sides = (a, b)
    for side in sides:
        if len(side.plan.cells(side.bundle.manifest.default_precision)) != 1:
            raise InputError(
                f"{side.name} has several cells; name one backend, precision, device and number of threads"
            )
        side.bundle.verify()
    with ExitStack() as stack:
        around = stack.enter_context(Surroundings(hooks))
        cells = []
        for side in sides:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coda-bench-")))
            own = dataclasses.replace(hooks, command=side.command or hooks.command)
            cells.append(Cells(side.bundle, image_set, side.plan, folder, silence_s, own))
        for pair in range(2 * pairs):
            if pair >= pairs and not _more_needed(cells, pairs):
                break
            for of in cells if pair % 2 == 0 else reversed(cells):
                of.run()
    before, after = (
        dataclasses.replace(of.results(typed, around), source=side.name) for of, side in zip(cells, sides, strict=True)
    )
    return compare(before, _renamed(after, before), threshold, paired=True)


def _more_needed(cells: Sequence[Cells], pairs: int) -> bool:
    """Return whether too few pairs were undisturbed; where nobody concludes anything, none do."""
    if pairs < MIN_PAIRS:
        return False
    before, after = (of.circumstances() for of in cells)
    return any(len(undisturbed_pairs(a, b)) < pairs for a, b in zip(before, after, strict=False))


def _renamed(results: Results, like: Results) -> Results:
    """Return results whose cell goes by the other's name: settings that differ are what is compared."""
    (cell,), (other,) = results.data["cells"], like.data["cells"]
    named: Cell = {**cell, "threads": other["threads"], "device": other["device"]}
    named |= {"backend": other["backend"], "precision": other["precision"]}
    return dataclasses.replace(results, data={**results.data, "cells": [named]})
