"""Figures between two log lines, over all processes, with one small exchange a step."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from coda_deploy import distributed


class Window:
    """Means of the terms since the last ``read``, and what every process must agree on: to stop, or that it diverged.

    On a GPU a step's figures are read while the next one runs, so that it never waits for the processor: until
    ``settle`` what is told here may be one step late.

    ``stop`` is the number of the signal that any process got, or 0; ``diverged`` the first term that was not finite,
    or "", and ``late`` how many steps before the last one added that was.
    """

    def __init__(
        self, seen: Tensor, images_per_step: int, state: Mapping[str, Any] | None = None, *, behind: int | None = None
    ) -> None:
        """Start from nothing, or from ``state()``; ``seen`` [V] counts the codes that this process has seen.

        ``behind`` steps may be under way; None for one on a GPU and none on a CPU.
        """
        self._seen, self._images_per_step = seen, images_per_step
        self._behind = int(seen.is_cuda) if behind is None else behind
        self._under_way: deque[_Step] = deque()
        kept = state or {"steps": 0, "sums": {}}
        self._steps, self._sums = int(kept["steps"]), dict[str, float](kept["sums"])
        self._fresh, self._begun = 0, time.monotonic()
        self.stop, self.diverged, self.late = 0, "", 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps besides ``seen``, which the first process gathers. All must call it."""
        self.settle()
        if distributed.world() > 1:
            dist.all_reduce(self._seen)
            if distributed.rank():
                self._seen.zero_()
        return {"steps": self._steps, "sums": dict(self._sums)}

    def add(self, terms: dict[str, Tensor], stop: int) -> None:
        """Add one step's terms on this process, and the signal it got."""
        flag = torch.tensor(float(bool(stop)), device=self._seen.device)
        values = distributed.mean_detached(torch.stack([*(term.float() for term in terms.values()), flag]))
        self._under_way.append(_Step(tuple(terms), stop, values))
        self.settle(self._behind)

    def settle(self, behind: int = 0) -> None:
        """Take the figures of all steps added but the last ``behind``; waits for their work on a GPU."""
        while len(self._under_way) > behind:
            done = self._under_way.popleft()
            values = done.values()
            if values.pop() > 0:
                self.stop = done.stop or int(signal.SIGTERM)
            for name, value in zip(done.names, values, strict=True):
                if not math.isfinite(value) and not self.diverged:
                    self.diverged, self.late = name, len(self._under_way)
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._steps, self._fresh = self._steps + 1, self._fresh + 1

    def read(self) -> dict[str, float]:
        """Return each term's mean, PSNR in dB of the mean squared error, the share of codes seen, if any, images/s."""
        self.settle()
        means = {name: total / self._steps for name, total in self._sums.items()}
        if distributed.world() > 1:
            dist.all_reduce(self._seen)
        now = time.monotonic()
        metrics = {
            **means,
            "psnr": 10 * math.log10(4 / max(means["l2"], 1e-12)),
            **({"utilization": float((self._seen > 0).float().mean())} if len(self._seen) else {}),
            "images_per_second": self._fresh * self._images_per_step / max(now - self._begun, 1e-9),
        }
        self._seen.zero_()
        self._sums, self._steps, self._fresh, self._begun = {}, 0, 0, now
        return metrics


class _Step:
    """A step's figures, on their way to the processor."""

    def __init__(self, names: tuple[str, ...], stop: int, values: Tensor) -> None:
        self.names, self.stop = names, stop
        # From a GPU into page-locked memory, behind the step's own work and before the next one's.
        self._values = values.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))

    def values(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[float] = self._values.tolist()
        return found
