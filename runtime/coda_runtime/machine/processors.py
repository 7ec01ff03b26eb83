"""The processors that this process may use, and what they are."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROC, _CGROUPS, _CPUS = Path("/proc"), Path("/sys/fs/cgroup"), Path("/sys/devices/system/cpu")
# Those that engine libraries choose their kernels by.
_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
# The instructions that compute in bf16, and those that multiply bytes and add them up in 32 bits.
_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
_BYTES = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")


def usable_cpus() -> list[int]:
    """Return their numbers; if the system does not say which, those of all CPUs."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_count() -> int:
    """Return how many processors this process may keep busy: a container's quota may be less than it sees."""
    quota = cpu_quota()
    return len(usable_cpus()) if quota is None else max(1, min(len(usable_cpus()), int(quota)))


def default_threads() -> int | None:
    """Return the threads of one run where nobody asked for a number; None leaves it to the engine library.

    Libraries take one for each physical core of the machine, whether this process may use it or not: neither a quota
    nor a cpuset nor taskset is looked at. Threads that wait busily for each other then share processors, or use a quota
    up and are stopped until the next period. So None only where the machine's cores are those that may be used.
    """
    may_use, quota = physical_cores(), cpu_quota()
    if quota is not None:
        may_use = max(1, min(may_use, int(quota)))
    return None if may_use == _count_cores(_online_cpus()) else may_use


def cpu_quota() -> float | None:
    """Return the processors' worth of time that the cgroups of this process leave it, such as 0.5; None for no limit.

    Of version 2 and of version 1, its own group and all that it lies in.
    """
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    quotas = []
    for line in lines:
        _, controllers, path, *_ = (*line.split(":", 2), "", "")
        if not controllers:
            quotas += _quotas(_CGROUPS, path, _quota_v2) + _quotas(_CGROUPS / "unified", path, _quota_v2)
        elif "cpu" in controllers.split(","):
            for name in dict.fromkeys(("cpu", controllers)):
                quotas += _quotas(_CGROUPS / name, path, _quota_v1)
    return min(quotas, default=None)


def _quotas(root: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """Return the limits of the group at `path` and of those above it; a container may see its own as the root."""
    inner = root / path.strip("/")
    folders = [inner, *inner.parents] if ".." not in inner.parts else [root]
    found = [read(folder) for folder in folders if folder.is_relative_to(root)]
    return [quota for quota in found if quota is not None]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max": no limit
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def physical_cores() -> int:
    """Count the cores of the processors that this process may use: two threads of one core share it."""
    return _count_cores(usable_cpus())


def _count_cores(cpus: Iterable[int]) -> int:
    cores = set()
    for cpu in cpus:
        try:
            cores.add((_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def _online_cpus() -> Iterable[int]:
    """Return the numbers of all processors that run, whoever may use them: those that are off have no topology."""
    found = [int(folder.parent.name[3:]) for folder in _CPUS.glob("cpu[0-9]*/topology")]
    return found or range(os.cpu_count() or 1)


def has_avx2() -> bool:
    """Return whether this is an x86-64 processor with AVX2 and FMA, by what numpy has read from it.

    /proc/cpuinfo is of no use here: under emulation it tells of the machine around.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    for module in ("numpy._core", "numpy.core"):  # numpy 2, and 1
        with suppress(ImportError, AttributeError):
            features = importlib.import_module(f"{module}._multiarray_umath").__cpu_features__
            return bool(features.get("AVX2") and features.get("FMA3"))
    return False


def instructions_for(cpu: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """Return a processor's instructions for "bf16" and for "int8"; empty where it has none, None where nobody tells.

    `cpu` is what `describe_cpu` gives.
    """
    if not cpu["flags"]:
        return {"bf16": None, "int8": None}
    return {
        "bf16": [flag for flag in _BF16 if flag in cpu["flags"]],
        "int8": [flag for flag in _BYTES if flag in cpu["flags"]],
    }


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
