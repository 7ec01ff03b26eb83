"""Memory of this process: what it holds in the host's memory and on a GPU, and its peak while a block runs."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .machine import nvidia_smi

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SAMPLED_EVERY = 0.005


class Peak:
    """The peak of a block: `bytes` is there once it ended, None where this system does not tell."""

    bytes: int | None = None


def resident_bytes() -> int | None:
    """What this process holds in memory now (RSS); None where the system does not tell."""
    return _field("VmRSS")


def device_bytes() -> int | None:
    """What this process holds on all NVIDIA GPUs now, as nvidia-smi tells, or None: it may not know a container's.

    Not run on a GPU yet.
    """
    rows = nvidia_smi("--query-compute-apps=pid,used_gpu_memory")
    ours = [row[1] for row in rows if len(row) == 2 and row[0] == str(os.getpid()) and row[1].isdecimal()]
    return sum(int(mebibytes) * 2**20 for mebibytes in ours) if ours else None


@contextmanager
def watch_peak() -> Iterator[Peak]:
    """The block's peak of RSS: the kernel's own where it can be reset, or else sampled, which misses short peaks."""
    peak = Peak()
    if _reset():
        yield peak
        peak.bytes = _field("VmHWM")
    elif resident_bytes() is not None:
        with _sampled(peak):
            yield peak
    else:
        yield peak
        peak.bytes = _peak_since_start()


def _reset() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:  # not Linux, or not allowed in this container
        return False
    return _field("VmHWM") is not None


@contextmanager
def _sampled(peak: Peak) -> Iterator[None]:
    stop, highest = threading.Event(), [resident_bytes() or 0]

    def sample() -> None:
        while not stop.wait(_SAMPLED_EVERY):
            highest[0] = max(highest[0], resident_bytes() or 0)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        peak.bytes = max(highest[0], resident_bytes() or 0)


def _field(name: str) -> int | None:
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def _peak_since_start() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
