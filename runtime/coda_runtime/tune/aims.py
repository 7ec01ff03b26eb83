"""What a setting is chosen by: the latency of a call, or images per second, under a bound of the latency or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class Row:
    """What was measured of a setting: the median call of `batch` images in `latency_s`, over `processes` of them.

    `setting` is its number among those that were measured. `disturbed`: no process had the machine to itself, so all
    of them count. `final`: it was among the best of the first round, and measured again.
    """

    setting: int
    operation: str
    batch: int
    latency_s: float
    processes: int
    disturbed: bool
    final: bool

    @property
    def images_per_s(self) -> float:
        """Return what calls one after the other put through."""
        return self.batch / self.latency_s


@dataclass(frozen=True)
class Aim:
    """Without `throughput` the lowest latency of the smallest batch, with it the most images per second.

    `bound_s`, which stands for throughput, bounds the median latency of a call. Raises InputError for what is no bound.
    """

    throughput: bool = False
    bound_s: float | None = None

    def __post_init__(self) -> None:
        if self.bound_s is not None:
            if not (math.isfinite(self.bound_s) and self.bound_s > 0):
                raise InputError(f"the latency is {self.bound_s * 1e3:g} ms; expected milliseconds, over 0")
            object.__setattr__(self, "throughput", True)

    @property
    def batches(self) -> tuple[int, ...]:
        """Return what is measured where nobody names batches."""
        return (1, 8) if self.throughput else (1,)

    def __str__(self) -> str:
        if not self.throughput:
            return "the lowest latency"
        bound = "" if self.bound_s is None else f" with a median latency under {self.bound_s * 1e3:g} ms"
        return f"the most images per second{bound}"

    def ranked(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of one operation, the best first.

        Those over the bound come last, the fastest first. Of one setting each batch is a row.
        """
        return sorted(rows, key=self._key)

    def holds(self, row: Row) -> bool:
        """Return whether a row keeps the bound."""
        return self.bound_s is None or row.latency_s < self.bound_s

    def best(self, rows: Sequence[Row]) -> Row | None:
        """Return the best of the rows of one operation that were measured again, None where none keeps the bound."""
        return next((row for row in self.ranked(rows) if row.final and self.holds(row)), None)

    def _key(self, row: Row) -> tuple[float, ...]:
        if not self.throughput:
            return row.batch, row.latency_s
        return (0.0, -row.images_per_s) if self.holds(row) else (1.0, row.latency_s)
