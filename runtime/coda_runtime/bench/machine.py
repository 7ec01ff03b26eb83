"""The machine that is measured, and what disturbs it: other processes, and a clock that is held back."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..machine.devices import gpu_uuids, nvidia_smi
from ..machine.processors import cpu_quota, describe_cpu, usable_cpus
from ..requirements import ENGINE_LIBRARIES, installed_version

_CPUS = Path("/sys/devices/system/cpu")
_PROC = Path("/proc")
_IDLE = (3, 4)  # fields of a line of /proc/stat: idle and iowait
_COUNTED = 8  # the fields after it, guest and guest_nice, are in user and nice already
_GPU_FIELDS = (
    "uuid", "index", "name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "power.limit",
    "ecc.mode.current", "mig.mode.current",
)  # fmt: skip
# Bits of NVML's clock event reasons: hw_slowdown, sw_thermal, hw_thermal, hw_power_brake. A power cap (0x4) is normal.
_SLOWED = 0x08 | 0x20 | 0x40 | 0x80


def describe() -> dict[str, Any]:
    """Return the `machine` of results.json; what is not known is null."""
    cpu = describe_cpu()
    return {
        "cpu": {
            "model": cpu["model"] or cpu["machine"],
            "cores": cpu["cores"],
            "quota": cpu_quota(),
            "flags": cpu["flags"],
            "frequency_mhz": _frequency_mhz(),
            "governor": _read(_CPUS / "cpu0/cpufreq/scaling_governor"),
            "max_frequency_mhz": _max_frequency_mhz(),
        },
        "memory_bytes": _memory_bytes(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: v for name in ("numpy", *ENGINE_LIBRARIES) if (v := installed_version(name)) is not None},
        "gpus": gpus(),
    }


def gpus() -> list[dict[str, Any]]:
    """Return the `gpus` of results.json, from nvidia-smi; empty without it.

    They are those that CUDA shows to this process, by its numbers: `index` N is "cuda:N". Where CUDA names none that
    nvidia-smi knows, they are all of nvidia-smi's, by its numbers.
    """
    out, shown = [], gpu_uuids()
    rows = [dict(zip(_GPU_FIELDS, row, strict=False)) for row in nvidia_smi("--query-gpu=" + ",".join(_GPU_FIELDS))]
    ours = {str(index): cells for index, uuid in enumerate(shown) for cells in rows if cells.get("uuid") == uuid}
    for index, cells in ours.items() if ours else ((cells.get("index"), cells) for cells in rows):
        memory = _number(cells.get("memory.total"))
        out.append(
            {
                "index": int(_number(index) or 0),
                "name": cells.get("name"),
                "driver": cells.get("driver_version"),
                "memory_bytes": None if memory is None else int(memory * 2**20),
                "clock_mhz": _number(cells.get("clocks.sm")),
                "max_clock_mhz": _number(cells.get("clocks.max.sm")),
                "power_limit_w": _number(cells.get("power.limit")),
                "ecc": _mode(cells.get("ecc.mode.current")),
                "mig": _mode(cells.get("mig.mode.current")),
            }
        )
    return out


def _mode(text: str | None) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text or "")


def gpu_slowed(index: int) -> bool | None:
    """Return whether heat or a lack of power holds back the clock of "cuda:N" now; None if not known."""
    shown = gpu_uuids()
    if index >= len(shown):
        return None
    # Drivers from 535 on call them event reasons; older ones refuse that name.
    for name in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
        for uuid, reasons in (row for row in nvidia_smi(f"--query-gpu=uuid,{name}") if len(row) == 2):
            try:
                if uuid == shown[index]:
                    return bool(int(reasons, 16) & _SLOWED)
            except ValueError:  # "[N/A]"
                return None
    return None


def cpu_throttle_count() -> int | None:
    """Return how often heat has held this process's CPU clocks back since boot; None if the kernel does not say."""
    counts = [_number(_read(_CPUS / f"cpu{cpu}/thermal_throttle/core_throttle_count")) for cpu in usable_cpus()]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


@dataclass(frozen=True)
class _Ticks:
    """Seconds since some moment on the CPUs that we may use: all of them, the busy ones, and those that were ours."""

    all: float
    busy: float
    ours: float


class CpuWatch:
    """From here on, the share of the CPUs that others use: processes outside this one and the children it waited for.

    Children that still run count as others, so wait for them before asking.
    """

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._start = self._read()

    def share(self) -> float | None:
        """Return the share since the start, 0 to 1, of all CPUs this process may use. None if that is not known."""
        start, now = self._start, self._read()
        if start is None or now is None or now.all <= start.all:
            return None
        others = (now.busy - start.busy) - (now.ours - start.ours)
        return min(1.0, max(0.0, others / (now.all - start.all)))

    def _read(self) -> _Ticks | None:
        text, cpus = _read(self._proc / "stat"), set(usable_cpus())
        if text is None or not hasattr(os, "sysconf"):
            return None
        total = idle = 0
        for line in text.splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cpus:
                ticks = [int(field) for field in fields[:_COUNTED]]
                total += sum(ticks)
                idle += sum(ticks[field] for field in _IDLE)
        second = os.sysconf("SC_CLK_TCK")
        return _Ticks(total / second, (total - idle) / second, sum(os.times()[:4]))


def _frequency_mhz() -> float | None:
    """Return the mean clock of all CPUs now."""
    text = _read(_PROC / "cpuinfo") or ""
    clocks = [_number(line.partition(":")[2]) for line in text.splitlines() if line.startswith("cpu MHz")]
    known = [clock for clock in clocks if clock is not None]
    return round(sum(known) / len(known), 1) if known else None


def _max_frequency_mhz() -> float | None:
    kilohertz = _number(_read(_CPUS / "cpu0/cpufreq/cpuinfo_max_freq"))
    return None if kilohertz is None else kilohertz / 1000


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows, and systems without these names
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
