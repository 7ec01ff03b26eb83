"""Where the time of a call goes: its parts, the copies to and from a GPU, and the runtime around them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..backends.base import DeviceArray, DeviceSession, Session, keeps_on_device
from ..tokenizer import Tokenizer
from .timing import Clock, Run

HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST = "host_to_device", "compute", "device_to_host"
COPIES = (HOST_TO_DEVICE, DEVICE_TO_HOST)

_RUNS, _SECONDS = 10, 2.0

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Breakdown:
    """Median seconds of a call's parts and of the runtime around them; and of the copies, where a part is on a GPU.

    `transfers` holds HOST_TO_DEVICE, COMPUTE (all parts together) and DEVICE_TO_HOST.
    """

    parts: dict[str, float]
    transfers: dict[str, float] | None


def break_down(tok: Tokenizer, run: Run, names: Sequence[str], *, clock: Clock = time.perf_counter) -> Breakdown:
    """Return where calls of `run`, which runs these parts, spend their time.

    On a GPU every copy and every part is waited for before the next begins, by the host's clock: a call that is not
    watched waits once, and may start the next part while one still runs.
    """
    watch, on_device = _Stopwatch(clock), False

    def change(part: str, session: Session) -> Session:
        nonlocal on_device
        on_device |= part in names and keeps_on_device(session)
        return timed_session(part, session, watch)

    samples: dict[str, list[float]] = {name: [] for name in (*names, *COPIES, COMPUTE, "runtime")}
    with tok.replaced_parts(change):
        start = clock()
        for number in range(_RUNS):
            watch.seconds.clear()
            before = clock()
            run(number)
            whole = clock() - before
            spent = {name: watch.seconds.get(name, 0.0) for name in (*names, *COPIES)}
            for name, seconds in spent.items():
                samples[name].append(seconds)
            samples[COMPUTE].append(sum(spent[name] for name in names))
            samples["runtime"].append(max(0.0, whole - sum(spent.values())))
            if clock() - start >= _SECONDS and number >= 2:
                break
    medians = {name: statistics.median(values) for name, values in samples.items()}
    transfers = {name: medians[name] for name in (HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST)}
    return Breakdown({name: medians[name] for name in (*names, "runtime")}, transfers if on_device else None)


def steps_of(of: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what a call of a measurement, or of one of its processes, is made of: parts, copies, runtime."""
    transfers = of.get("transfers_s") or {}
    return {**(of["parts_s"] or {}), **{name: transfers[name] for name in COPIES if name in transfers}}


def time_reading(run: Run, *, clock: Clock = time.perf_counter) -> float:
    """Return the median seconds of calls that only read files."""
    samples: list[float] = []
    start = clock()
    for number in range(_RUNS):
        before = clock()
        run(number)
        samples.append(clock() - before)
        if clock() - start >= _SECONDS and number >= 2:
            break
    return statistics.median(samples)


class Watch(Protocol):
    """Notes how long a block takes."""

    def of(self, name: str) -> AbstractContextManager[None]:
        """Note what happens inside under a name: a part, HOST_TO_DEVICE or DEVICE_TO_HOST."""
        ...


def timed_session(part: str, session: Session, watch: Watch) -> Session:
    """Return a session whose runs, and copies to and from a GPU, `watch` notes, each until it is done."""
    return _TimedOnDevice(part, session, watch) if keeps_on_device(session) else _Timed(part, session, watch)


class _Stopwatch:
    """Adds up seconds by name."""

    def __init__(self, clock: Clock) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        start = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - start


class _Timed:
    """A session whose runs are timed."""

    def __init__(self, part: str, session: Session, watch: Watch) -> None:
        self.device, self.batch = session.device, session.batch
        self._part, self._session, self._watch = part, session, watch

    def run(self, batch: Array) -> Array:
        with self._watch.of(self._part):
            return self._session.run(batch)

    def close(self) -> None:
        self._session.close()


class _TimedOnDevice(_Timed):
    """A session on a GPU, whose copies and runs are timed, each until it is done."""

    _session: DeviceSession

    def run(self, batch: Array) -> Array:
        return self.run_on_device(batch).numpy()

    def put(self, batch: Array) -> _TimedArray:
        with self._watch.of(HOST_TO_DEVICE):
            out = self._session.put(batch)
            out.wait()
        return _TimedArray(out, self._watch)

    def take(self, array: Any) -> _TimedArray:
        return _TimedArray(self._session.take(array), self._watch)

    def run_on_device(self, batch: Array | DeviceArray) -> _TimedArray:
        given = self.put(batch) if isinstance(batch, np.ndarray) else batch
        inner = given.array if isinstance(given, _TimedArray) else given
        with self._watch.of(self._part):
            out = self._session.run_on_device(inner)
            out.wait()
        return _TimedArray(out, self._watch)


class _TimedArray:
    """An array on a GPU; to fetch it is timed."""

    def __init__(self, array: DeviceArray, watch: Watch) -> None:
        self.array = array
        self.shape, self.dtype, self.device = array.shape, array.dtype, array.device
        self._watch = watch

    def numpy(self) -> Array:
        with self._watch.of(DEVICE_TO_HOST):
            return self.array.numpy()

    def wait(self) -> None:
        self.array.wait()

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()
