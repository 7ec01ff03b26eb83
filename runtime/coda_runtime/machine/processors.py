"""The processors that this process may use, and what they are."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# Those that engine libraries choose their kernels by.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def usable_cpus() -> list[int]:
    """Return their numbers; if the system does not say which, those of all CPUs."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def describe_cpu() -> dict[str, Any]:
    """Return "machine", "cores" that this process may use, "vendor", "model", "flags" that engines look for.

    Vendor and model are None, and the flags empty, where the system does not tell: only Linux does.
    """
    out: dict[str, Any] = {"machine": platform.machine(), "cores": len(usable_cpus())}
    out |= {"vendor": None, "model": None, "flags": []}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return out
    for line in lines:
        key, _, value = (field.strip() for field in line.partition(":"))
        if key == "vendor_id":
            out["vendor"] = value
        elif key == "model name":
            out["model"] = value
        elif key.lower() in ("flags", "features"):
            out["flags"] = [flag for flag in _FLAGS if flag in value.split()]
            break
    return out
