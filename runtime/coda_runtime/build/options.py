"""How an engine is built: batch profiles, targets, limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..backends.tensorrt.library import EngineLibrary
from ..errors import InputError
from ..format.engine_key import BuildFlags, Capability
from ..format.profiles import MAX_PROFILES, Batch, in_order, profile_text
from ..io.counts import count

HARDWARE = {"none": "NONE", "same-compute-capability": "SAME_COMPUTE_CAPABILITY", "ampere-plus": "AMPERE_PLUS"}
"""Which other GPUs an engine of TensorRT may run on: names here and in the library's HardwareCompatibilityLevel."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of one build.

    `batch` is the profile (MIN, OPT, MAX) in images, or a sequence of several; `profiles` has them as the engine will,
    rising by OPT. `targets` are GPUs, as "sm89", which only TensorRT-RTX can build
    for ahead of time; empty means the GPU of this machine. `workspace_gib` bounds the scratch memory of a layer, None
    leaves it to the library. `optimization_level` goes from 0 (quick) to 5, None is the library's default.
    `timing_cache` is a file that measured tactics are read from and written to. `hardware` is a key of HARDWARE.

    Raises InputError for values out of range.
    """

    batch: Batch | Sequence[Batch] = (1, 4, 8)
    targets: tuple[str, ...] = ()
    workspace_gib: float | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    hardware: str = "none"
    version_compatible: bool = False

    def __post_init__(self) -> None:
        for low, best, high in self.profiles:
            if not 1 <= low <= best <= high:
                raise InputError(f"batch is {low},{best},{high}; expected MIN,OPT,MAX, rising, from 1")
        if not 1 <= len(self.profiles) <= MAX_PROFILES:
            raise InputError(f"batch has {count(len(self.profiles), 'profile')}; expected 1 to {MAX_PROFILES}")
        twice = [a for a, b in pairwise(self.profiles) if a == b]
        if twice:
            raise InputError(f"batch has the profile {profile_text(twice[0])} twice; expected each once")
        if len(set(self.targets)) != len(self.targets):
            raise InputError(f"targets lists one twice: {', '.join(self.targets)}")
        if self.workspace_gib is not None and not 0 < self.workspace_gib <= 1024:
            raise InputError(f"workspace is {self.workspace_gib} GiB; expected more than 0 and at most 1024")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(f"optimization level is {self.optimization_level}; expected 0 to 5")
        if self.hardware not in HARDWARE:
            raise InputError(f"hardware compatibility is {self.hardware!r}; expected one of {', '.join(HARDWARE)}")

    @property
    def profiles(self) -> tuple[Batch, ...]:
        """The batch profiles of the engine, rising by OPT."""
        given: tuple[Any, ...] = tuple(self.batch)
        return in_order([given] if isinstance(next(iter(given), None), int) else [tuple(one) for one in given])

    def check_for(self, library: EngineLibrary) -> None:
        """Raise InputError for an option that this library does not have or that would not do what it says."""
        title, known = library.title, library.targets
        if self.targets and not known:
            raise InputError(
                f"{title} builds for the GPU of this machine only, and targets names {', '.join(self.targets)}; run "
                "`coda build` on the target machine, or take tensorrt-rtx, which builds for named GPUs"
            )
        unknown = [target for target in self.targets if target not in known]
        if unknown:
            raise InputError(f"{title} {library.version} has no target {', '.join(unknown)}; it has {', '.join(known)}")
        if known and self.timing_cache is not None:
            raise InputError(f"{title} takes no timing cache: it tunes on the user's GPU when the engine is loaded")
        if known and (self.version_compatible or self.hardware != "none"):
            raise InputError(
                f"{title} has no version- or hardware-compatible engines; name the GPUs as targets instead, one of "
                f"{', '.join(known)}"
            )

    def flags(self) -> BuildFlags:
        """Return what of this is part of an engine's key."""
        return BuildFlags(
            workspace_gib=self.workspace_gib,
            optimization_level=self.optimization_level,
            hardware_compatible=self.hardware,
            version_compatible=self.version_compatible,
        )


def parse_batch(text: str) -> Batch:
    """Parse a profile as typed, "1,4,8" or "8" -> (MIN, OPT, MAX). Raises InputError."""
    values = [value.strip() for value in text.split(",")]
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(re.fullmatch(r"[1-9]\d{0,4}", value) for value in values):
        raise InputError(f"batch is {text!r}; expected MIN,OPT,MAX, such as 1,4,8, or one number")
    low, best, high = map(int, values)
    return low, best, high


def parse_batches(texts: Sequence[str]) -> tuple[Batch, ...]:
    """Parse the profiles of an engine, each as `parse_batch` does. Raises InputError."""
    return tuple(map(parse_batch, texts))


def parse_targets(text: str) -> tuple[str, ...]:
    """Parse GPUs as typed, "SM120,8.9" -> ("sm89", "sm120"), ascending. Raises InputError."""
    targets = []
    for value in filter(None, (value.strip().lower() for value in text.split(","))):
        found = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", value)
        if found is None:
            raise InputError(f"target is {value!r}; expected compute capabilities such as sm89,sm120")
        targets.append(Capability(int(found[1]), int(found[2])))
    if not targets:
        raise InputError("target is empty; expected compute capabilities such as sm89,sm120")
    return tuple(target.name for target in sorted(targets))
