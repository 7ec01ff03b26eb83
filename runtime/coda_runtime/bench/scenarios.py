"""How calls follow each other, by MLPerf's names: single stream, offline, server; and that at rates that are given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .results import Concurrency
from .statistics import percentile
from .timing import Clock, Run, WarmUp, warm_and_measure, warm_up

SCENARIOS = ("single-stream", "offline", "server", "offered", "concurrent")

OFFLINE_REPEATS = 6
"""Passes over all images, at least: what an interval of the median needs."""
PROBES = 12
"""Rates that the server scenario tries at most."""
STRETCH = 4
"""A probe lasts at most so many times the seconds asked for, and only where too few requests would come otherwise."""
BOUNDS = 10
"""A probe lasts at least so many times the latency bound: an overload shows only when the queue has grown that long."""
_FEW = 20  # for which a probe is stretched
_CLOSE = 1.05  # the search ends when the rate that holds and the one that does not are as close as this
_SEED = 1

Serve = Callable[[int, int], object]
"""Serve requests `start` to `stop` in one call."""
Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Measured:
    """What a scenario gives: seconds in the order of time, and images that each stands for."""

    warm_up: WarmUp
    samples: list[float] = field(repr=False)
    images_per_sample: int
    server: dict[str, Any] | None = None
    concurrency: Concurrency | None = None


def single_stream(run: Run, batch: int, seconds: float, *, clock: Clock = time.perf_counter) -> Measured:
    """Measure one call of `batch` images after another; a sample is a call."""
    timing = warm_and_measure(run, seconds, clock=clock)
    return Measured(timing.warm_up, timing.samples, batch)


def offline(run: Run, images: int, seconds: float, *, clock: Clock = time.perf_counter) -> Measured:
    """Measure all `images` at hand at once, which `run` puts through; a sample is a pass over all of them."""
    timing = warm_and_measure(run, seconds, repeats=OFFLINE_REPEATS, clock=clock)
    return Measured(timing.warm_up, timing.samples, images)


@dataclass(frozen=True)
class Probe:
    """Requests at one rate. Seconds and images per second; `held` if the 99th percentile stayed under the bound."""

    rate: float
    latencies: list[float] = field(repr=False)
    waits: list[float] = field(repr=False)
    seconds: float
    held: bool

    @property
    def achieved(self) -> float:
        """Images per second that were done."""
        return len(self.latencies) / self.seconds


def server(
    serve: Serve,
    batch: int,
    seconds: float,
    bound_s: float,
    *,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> Measured:
    """Find the highest rate of single images, arriving at random, whose 99th percentile of latency stays under a bound.

    Requests come as a Poisson process, always of one seed; one worker takes what waits, up to `batch` at once; latency
    is from arrival to done. Rates are tried around what full batches allow, then in between, `PROBES` at most, each for
    `seconds` or BOUNDS times the bound, and for up to STRETCH times as long where fewer than a few requests would come.
    The samples are those of the best probe that held, or of the slowest where none did; max_rate is null then.
    """
    warmed = _warm(serve, batch, seconds, clock)
    seconds = max(seconds, BOUNDS * bound_s)
    start = clock()
    serve(0, batch)
    rate = batch / max(clock() - start, 1e-6)
    held: Probe | None = None
    failed: Probe | None = None
    curve: list[Probe] = []
    while len(curve) < PROBES:
        probe = ask(serve, batch, rate, seconds, bound_s, clock=clock, sleep=sleep)
        curve.append(probe)
        if probe.held and (held is None or probe.rate > held.rate):
            held = probe
        elif not probe.held and (failed is None or probe.rate < failed.rate):
            failed = probe
        if min(probe.latencies) > bound_s:  # even one that did not wait: no rate is slow enough
            break
        if held is not None and failed is not None:
            if failed.rate <= held.rate * _CLOSE:
                break
            rate = (held.rate + failed.rate) / 2
        else:
            rate = rate / 2 if held is None else rate * 1.5
    best = held or min(curve, key=lambda probe: probe.rate)
    numbers = {
        "latency_bound_s": bound_s,
        "offered_rate": best.rate,
        "achieved_rate": best.achieved,
        "max_rate": None if held is None else held.rate,
        "queue_p99_s": percentile(best.waits, 99),
        "curve": [_point(probe) for probe in sorted(curve, key=lambda probe: probe.rate)],
    }
    return Measured(warmed, best.latencies, 1, numbers)


def offered(
    serve: Serve,
    batch: int,
    seconds: float,
    rates: Sequence[float],
    *,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> Measured:
    """Send single images at each of these rates, whether they are served in time or not: an open loop.

    As `server` otherwise. A latency counts from when an image was due, so that a call that stands still shows in all
    that came meanwhile (no coordinated omission). The samples are those of the last rate.
    """
    warmed = _warm(serve, batch, seconds, clock)
    probes = [ask(serve, batch, rate, seconds, math.inf, clock=clock, sleep=sleep) for rate in rates]
    numbers = {
        "latency_bound_s": None,
        "offered_rate": probes[-1].rate,
        "achieved_rate": probes[-1].achieved,
        "max_rate": None,
        "queue_p99_s": percentile(probes[-1].waits, 99),
        "curve": [_point(probe) for probe in sorted(probes, key=lambda probe: probe.rate)],
    }
    return Measured(warmed, probes[-1].latencies, 1, numbers)


def ask(
    serve: Serve,
    batch: int,
    rate: float,
    seconds: float,
    bound_s: float,
    *,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> Probe:
    """Send requests at `rate` a second; it ends early once more of them are late than a 99th percentile forgives."""
    arrivals = arrive(rate, seconds)
    count = len(arrivals)
    forgiven = count - 1 - (99 * (count - 1)) // 100
    latencies: list[float] = []
    waits: list[float] = []
    late = done = 0
    start = clock()
    while done < count and late <= forgiven:
        now = clock() - start
        if arrivals[done] > now:
            sleep(float(arrivals[done] - now))
            now = max(clock() - start, float(arrivals[done]))  # rounding may wake us a trifle early
        stop = min(int(np.searchsorted(arrivals, now, side="right")), done + batch)
        serve(done, stop)
        end = clock() - start
        latencies += [end - float(arrival) for arrival in arrivals[done:stop]]
        waits += [now - float(arrival) for arrival in arrivals[done:stop]]
        late += sum(latency > bound_s for latency in latencies[done:stop])
        done = stop
    held = done == count and percentile(latencies, 99) <= bound_s
    return Probe(rate, latencies, waits, max(clock() - start, 1e-9), held)


def arrive(rate: float, seconds: float) -> npt.NDArray[np.float64]:
    """Return times of a Poisson process, ascending seconds from 0: always of one seed, at exactly that mean rate."""
    count = max(1, round(rate * seconds), min(_FEW, int(rate * seconds * STRETCH)))
    gaps = np.random.default_rng(_SEED).exponential(1 / rate, count)
    gaps[0] = 0
    times: npt.NDArray[np.float64] = np.cumsum(gaps)
    # A few dozen random gaps may well come at three quarters of the rate that they are drawn for.
    return times * ((count - 1) / rate / times[-1]) if count > 1 else times


def _warm(serve: Serve, batch: int, seconds: float, clock: Clock) -> WarmUp:
    """Warm up full batches, after one call of each power of two below: libraries plan for each size they meet."""
    size = 1
    while size < batch:
        serve(0, size)
        size *= 2
    return warm_up(lambda _: serve(0, batch), seconds, clock=clock)


def _point(probe: Probe) -> dict[str, float]:
    latencies = probe.latencies
    return {
        "rate": probe.rate,
        "count": len(latencies),
        "p50": percentile(latencies, 50),
        "p99": percentile(latencies, 99),
        "max": max(latencies),
        "achieved": probe.achieved,
    }
