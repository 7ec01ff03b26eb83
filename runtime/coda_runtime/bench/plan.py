"""What a benchmark measures: the cells, and the measurements in each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..backends.base import LoadOptions
from ..backends.registry import get_backend
from ..errors import InputError
from .operations import ON_DEVICE, OPERATIONS
from .scenarios import SCENARIOS

MAX_CALLERS = 256
AXES = ("backend", "precision", "device", "threads")
"""The load options that cells differ in."""


@dataclass(frozen=True)
class Plan:
    """What to measure: every combination of the first four in cells, and of the next three in each cell.

    `seconds` is the least time of a measurement, `latency_bound_s` what the server scenario keeps its 99th percentile
    under, `rates` what the offered scenario offers in images per second, `callers` the numbers of callers of the
    concurrent one, `repeat_process` how many processes measure each cell. `options` are the load options that all cells
    share; the first four are each cell's own. Without `detailed` nobody looks where the time of a call
    goes. Raises InputError for what is not there at all.
    """

    backends: Sequence[str] = ("auto",)
    precisions: Sequence[str] = ("auto",)
    devices: Sequence[str] = ("auto",)
    threads: Sequence[int | None] = (None,)
    operations: Sequence[str] = ("encode", "decode")
    scenarios: Sequence[str] = ("single-stream",)
    batches: Sequence[int] = (1, 8)
    seconds: float = 0.5
    latency_bound_s: float | None = None
    rates: Sequence[float] = ()
    callers: Sequence[int] = (1, 2, 4, 8)
    repeat_process: int = 11  # with seven, one odd process among them makes the interval as wide as itself
    options: LoadOptions = field(default_factory=LoadOptions)
    detailed: bool = True

    def __post_init__(self) -> None:
        _check_known("operation", self.operations, tuple(OPERATIONS))
        _check_known("scenario", self.scenarios, SCENARIOS)
        for backend in self.backends:
            if backend != "auto":
                get_backend(backend)
        for device, threads in itertools.product(self.devices, self.threads):
            replace(self.options, device=device, threads=threads)
        for batch in self.batches:
            if batch < 1:
                raise InputError(f"batch is {batch}; expected whole numbers from 1, such as 1,4,8")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InputError(f"seconds is {self.seconds}; expected a number over 0")
        bound = self.latency_bound_s
        if bound is not None and not (math.isfinite(bound) and bound > 0):
            raise InputError(f"the latency bound is {bound} s; expected a number over 0")
        if "offered" in self.scenarios and not self.rates:
            raise InputError("the offered scenario offers images at rates that are given; name some: --rate 10,20,40")
        for rate in self.rates:
            if not (math.isfinite(rate) and rate > 0):
                raise InputError(f"a rate is {rate}; expected images per second, over 0")
        for callers in self.callers:
            if not 1 <= callers <= MAX_CALLERS:
                raise InputError(f"callers is {callers}; expected whole numbers from 1 to {MAX_CALLERS}, such as 1,2,4")
        self._check_arrivals()
        if "server" in self.scenarios and bound is None:
            raise InputError(
                "the server scenario looks for the highest rate under a latency bound; name one: --latency-bound MS"
            )

    def _check_arrivals(self) -> None:
        """Raise InputError for arrays on a device in a scenario whose images come one by one from the host."""
        for operation in self.operations:
            for scenario in self.scenarios:
                if operation in ON_DEVICE and scenario in ("server", "offered"):
                    raise InputError(
                        f"{operation} starts from whole batches on the device, and in the scenario {scenario} images "
                        f"arrive one by one, in host memory; leave one of them out, or measure {ON_DEVICE[operation]}"
                    )

    def cells(self, default_precision: str) -> list[dict[str, Any]]:
        """Return what each cell is asked for; precision "auto" is the bundle's default, as it is on every machine."""
        precisions = dict.fromkeys(default_precision if name == "auto" else name for name in self.precisions)
        axes = (dict.fromkeys(self.backends), precisions, dict.fromkeys(self.devices), dict.fromkeys(self.threads))
        return [dict(zip(AXES, values, strict=True)) for values in itertools.product(*axes)]

    def measurements(self) -> list[tuple[str, str, int]]:
        """Return what is measured in a cell: operation, scenario, batch."""
        operations, scenarios = dict.fromkeys(self.operations), dict.fromkeys(self.scenarios)
        return list(itertools.product(operations, scenarios, dict.fromkeys(self.batches)))


def _check_known(what: str, values: Sequence[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise InputError(f"{what} is {value!r}; expected {', '.join(known)}, or several, separated by commas")
