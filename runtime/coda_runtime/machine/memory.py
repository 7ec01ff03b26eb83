"""Memory of a process: what it holds in the host's memory and on a GPU, and its peaks."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .devices import nvidia_smi

_CLEAR = Path("/proc/self/clear_refs")
_SAMPLED_EVERY = 0.005


class Peak:
    """The peak of a block: `bytes` is there once it ended, None where this system does not tell."""

    bytes: int | None = None


def resident_bytes(pid: int | None = None) -> int | None:
    """Return what a process holds in memory now (RSS), this one by default; None where the system does not tell."""
    return _field("VmRSS", pid)


def peak_bytes() -> int | None:
    """Return the peak of RSS since this process began, or since `watch_peak` reset it; None where nothing tells."""
    peak = _field("VmHWM")
    return _peak_by_getrusage() if peak is None else peak


def device_bytes() -> int | None:
    """Return what this process holds on all NVIDIA GPUs now, as nvidia-smi tells; None where it does not know.

    It may not know a container's processes.
    """
    rows = nvidia_smi("--query-compute-apps=pid,used_gpu_memory")
    ours = [row[1] for row in rows if len(row) == 2 and row[0] == str(os.getpid()) and row[1].isdecimal()]
    return sum(int(mebibytes) * 2**20 for mebibytes in ours) if ours else None


@contextmanager
def watch_peak() -> Iterator[Peak]:
    """Watch the block's peak of RSS: the kernel's own where it can be reset, or else sampled.

    Sampling misses short peaks.
    """
    peak = Peak()
    if _reset():
        yield peak
        peak.bytes = _field("VmHWM")
    elif resident_bytes() is not None:
        with _sampled(peak):
            yield peak
    else:
        yield peak
        peak.bytes = peak_bytes()


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


def _field(name: str, pid: int | None = None) -> int | None:
    try:
        text = Path(f"/proc/{'self' if pid is None else pid}/status").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def _peak_by_getrusage() -> int | None:
    # The kernel's own number comes first, where there is one: this one outlives exec.
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
