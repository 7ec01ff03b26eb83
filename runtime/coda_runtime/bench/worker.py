"""The process that measures one cell: a case as one line of JSON on stdin, what it found as lines of JSON on stdout.

    python -m coda_runtime.bench.worker

Each line has a `kind`: loaded (what was loaded, and how long it took), measured, skipped (a measurement that could not
be made, and why), alive (calls go on), problem (why the cell cannot run at all), done. stderr is for the engine
libraries, and for the traceback of a fault. It ends when stdin does: it does not outlive the process that started it.
"""

# What is imported here is not timed: the rest is imported inside.
from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..tokenizer import Tokenizer
    from .scenarios import Measured
    from .timing import Run

_ALIVE_EVERY = 1.0


class Channel:
    """Writes the lines, and says now and then that calls go on."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._last = time.perf_counter()

    def send(self, kind: str, **values: Any) -> None:
        """Write one line."""
        self._out.write(json.dumps({"kind": kind, **values}, allow_nan=False) + "\n")
        self._out.flush()
        self._last = time.perf_counter()

    def ticking(self, run: Run) -> Run:
        """Return `run`, followed by a sign of life if the last is a while ago."""

        def call(number: int) -> object:
            out = run(number)
            if time.perf_counter() - self._last > _ALIVE_EVERY:
                self._last = time.perf_counter()  # before another caller looks
                self.send("alive")
            return out

        return call


def main() -> None:
    """Read the case from stdin, measure it, and exit: 0 when done or when a problem was told."""
    case = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    # Engine libraries print what they like: to stderr with it.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        work(case, Channel(out))


def work(case: dict[str, Any], channel: Channel) -> None:
    """Measure a case.

    Its keys: bundle (a folder), options (fields of LoadOptions), backend, precision, device and threads (in place of
    those), images (a .npy file, uint8 [N,S,S,3]), files (what these were read from), seconds, latency_bound_s, rates,
    callers, measurements, a list of [operation, scenario, batch], and detailed: whether to look where the time goes.
    """
    start = time.perf_counter()
    import numpy as np

    from ..backends.base import LoadOptions
    from ..errors import CodaError, one_line
    from ..format.bundle import Bundle
    from ..loading import open_tokenizer
    from ..machine import memory
    from .machine import CpuWatch, gpu_slowed
    from .operations import OPERATIONS, Inputs
    from .plan import AXES
    from .roofline import min_bytes, peak_bytes, peak_flops, work_of
    from .steady import reference_seconds

    imported = time.perf_counter() - start
    images = np.load(case["images"], allow_pickle=False)
    bytes_before = memory.resident_bytes()
    start = time.perf_counter()
    try:
        tok = open_tokenizer(case["bundle"], LoadOptions(**{**case["options"], **{axis: case[axis] for axis in AXES}}))
    except CodaError as error:
        channel.send("problem", problem=one_line(error, limit=None))
        return
    with tok:
        loaded = time.perf_counter() - start
        after = memory.resident_bytes()
        gpus = sorted({artifact.device for artifact in tok.artifacts if artifact.device.startswith("cuda")})
        try:
            first = _first_run(tok, images)
        except CodaError as error:
            channel.send("problem", problem=one_line(error, limit=None))
            return
        names = ("part", "file", "backend", "device", "precision", "format")
        channel.send(
            "loaded",
            artifacts=[
                {name: getattr(artifact, name) for name in names} | {"profiles": [*map(list, artifact.profiles)]}
                for artifact in tok.artifacts
            ],
            load={
                "import_s": imported,
                "load_s": loaded,
                "first_run_s": first,
                "host_bytes": None if bytes_before is None or after is None else after - bytes_before,
                "device_bytes": memory.device_bytes() if gpus else None,
            },
        )
        inputs: Inputs | None = None
        per_run, slowed = tok.images_per_run, []
        bundle = Bundle.open(tok.folder)
        detailed = case.get("detailed", True)
        peaks = {"peak_flops": peak_flops(), "peak_bytes": peak_bytes()} if detailed else {}
        for operation, scenario, batch in case["measurements"]:
            about = {"operation": operation, "scenario": scenario, "batch": batch}
            try:
                if inputs is None or inputs.operation != operation:
                    inputs = Inputs(tok, operation, images, case["files"])
                before, watch = None if gpus else reference_seconds(), CpuWatch()
                measured = _measure(tok, inputs, scenario, batch, case, channel, gpus)
                measured["others"] = watch.share()
                measured["reference_s"] = None if before is None else [before, reference_seconds()]
            except CodaError as error:
                channel.send("skipped", **about, problem=one_line(error, limit=None))
                continue
            finally:
                tok.images_per_run = per_run
            slowed += [gpu_slowed(int(name.partition(":")[2] or 0)) for name in gpus]
            roofline = None
            work = work_of(bundle.manifest.provenance, tok.artifacts, OPERATIONS[operation])
            if detailed and work is not None and scenario in ("single-stream", "offline"):  # one call at a time
                count, most = measured["images_per_sample"], min(batch, tok.images_per_run)
                moved = min_bytes(bundle, tok.artifacts, OPERATIONS[operation], count, -(-count // most))
                roofline = {"flops": work * count, "min_bytes": moved, **peaks}
            reached = None if roofline is None else roofline["flops"] / float(np.median(measured["samples"]))
            share = None if reached is None else reached / peaks["peak_flops"]
            channel.send("measured", **about, **measured, flops_share=share, roofline=roofline)
    known = [value for value in slowed if value is not None]
    channel.send("done", throttled=any(known) if known else None)


def _measure(
    tok: Tokenizer, inputs: Any, scenario: str, batch: int, case: dict[str, Any], channel: Channel, gpus: list[str]
) -> dict[str, Any]:
    """Take one measurement: what it took, and its samples."""
    from ..machine import memory
    from . import callers, scenarios
    from .breakdown import break_down, time_reading
    from .energy import EnergyMeter
    from .one_call import trace
    from .operations import OPERATIONS

    seconds, parts, transfers, timeline = case["seconds"], None, None, None
    energy = EnergyMeter([int(name.partition(":")[2] or 0) for name in gpus])
    wall, busy = time.perf_counter(), time.process_time()
    energy.start()
    with memory.watch_peak() as peak:
        measured: Measured
        if scenario == "single-stream":
            run = channel.ticking(inputs.batches(batch))
            measured = scenarios.single_stream(run, batch, seconds)
        elif scenario == "offline":
            run, count = inputs.passes(batch)
            measured = scenarios.offline(channel.ticking(run), count, seconds)
        elif scenario == "concurrent":
            measured = callers.concurrent(channel.ticking(inputs.batches(batch)), batch, seconds, case["callers"])
        elif scenario == "offered":
            serve = _ticking_requests(inputs.requests(), channel)
            measured = scenarios.offered(serve, batch, seconds, case["rates"])
        else:
            serve = _ticking_requests(inputs.requests(), channel)
            measured = scenarios.server(serve, batch, seconds, case["latency_bound_s"])
    watts = energy.stop()
    busy, wall = time.process_time() - busy, time.perf_counter() - wall
    device = memory.device_bytes() if gpus else None  # before parts are timed, which takes memory of its own
    if scenario == "single-stream" and case.get("detailed", True):
        found = break_down(tok, run, OPERATIONS[inputs.operation])
        parts, transfers = found.parts, found.transfers
        reading = inputs.read(batch)
        if reading is not None:
            files = time_reading(reading)
            parts |= {"files": files, "runtime": max(0.0, parts["runtime"] - files)}
        timeline = trace(tok, inputs, batch, after=channel.ticking(lambda _: None))
    return {
        "warmup_runs": measured.warm_up.runs,
        "warm": measured.warm_up.warm,
        "samples": measured.samples,
        "images_per_sample": measured.images_per_sample,
        "peak_host_bytes": peak.bytes,
        "peak_device_bytes": device,
        "parts_s": parts,
        "transfers_s": transfers,
        "server": measured.server,
        "concurrency": measured.concurrency,
        "timeline": timeline,
        "busy_cpus": busy / wall,
        "watts": watts,
    }


def _ticking_requests(serve: Callable[[int, int], object], channel: Channel) -> Callable[[int, int], object]:
    def call(start: int, stop: int) -> object:
        return channel.ticking(lambda _: serve(start, stop))(0)

    return call


def _first_run(tok: Tokenizer, images: npt.NDArray[np.uint8]) -> float:
    """Return the seconds of the first call, of one image."""
    start = time.perf_counter()
    tok.encode(images[:1])
    return time.perf_counter() - start


def _end_with_stdin() -> None:
    # Not through sys.stdin: its lock, held by a daemon thread, would be fatal when the interpreter ends.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
