"""The processors that this process may use."""

from __future__ import annotations

import os


def usable_cpus() -> list[int]:
    """Their numbers; where the system does not tell which, those of all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
