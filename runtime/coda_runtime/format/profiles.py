"""Batch profiles: the numbers of images that an engine was planned for, and which of its profiles a batch runs in."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Batch = tuple[int, int, int]
"""A batch profile: the smallest, the best and the largest number of images."""

MAX_PROFILES = 16
"""Profiles of one engine. Each is planned by itself, and takes time in the build and bytes in the engine."""


def choose_profile(profiles: Sequence[Batch], count: int) -> int | None:
    """Return the index of the profile that a batch of `count` images runs in, None where none holds it.

    Of several that hold it, it is the one whose OPT is nearest, as in NVIDIA Triton: an engine is fastest there. Of
    those, it is the one with the smallest MAX, which takes the least memory.
    """
    holding = [index for index, (low, _, high) in enumerate(profiles) if low <= count <= high]
    return min(holding, key=lambda index: (abs(profiles[index][1] - count), profiles[index][2]), default=None)


def in_order(profiles: Iterable[Batch]) -> tuple[Batch, ...]:
    """Return profiles as an engine has them: rising by OPT, so that it does not matter how they were typed."""
    return tuple(sorted(profiles, key=lambda profile: (profile[1], profile[2], profile[0])))


def added(profiles: Sequence[Batch], old: Sequence[Batch]) -> tuple[Batch, ...]:
    """Return `profiles`, and those of `old` that none of these holds from MIN to MAX."""
    left = [(low, best, high) for low, best, high in old if not any(a <= low and high <= b for a, _, b in profiles)]
    return in_order([*profiles, *left])


def span(profiles: Sequence[Batch]) -> Batch:
    """Return one profile from the smallest to the largest batch, with the OPT of the one that takes the largest."""
    _, best, high = max(profiles, key=lambda profile: (profile[2], profile[1]))
    return min(profile[0] for profile in profiles), best, high


def profile_text(profile: Batch) -> str:
    """Return a profile as it is typed, "1,4,8"."""
    return ",".join(map(str, profile))


def profiles_text(profiles: Iterable[Batch]) -> str:
    """Return profiles as tables show them, "1,1,1 8,16,32"."""
    return " ".join(map(profile_text, profiles))


def batch_options(profiles: Iterable[Batch]) -> str:
    """Return the options of a command that builds these profiles, "--batch 1,1,1 --batch 8,16,32"."""
    return " ".join(f"--batch {profile_text(profile)}" for profile in profiles)


@dataclass(frozen=True)
class BatchSizes:
    """The numbers of images that something takes at once: `ranges` (smallest, largest), rising, with gaps between."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, profiles: Iterable[Batch]) -> BatchSizes:
        """Return the sizes that at least one of the profiles holds."""
        ranges: list[tuple[int, int]] = []
        for low, high in sorted((low, high) for low, _, high in profiles):
            if ranges and low <= ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
            else:
                ranges.append((low, high))
        return cls(tuple(ranges))

    def __and__(self, other: BatchSizes) -> BatchSizes:
        """Return the sizes that both take; `ranges` may be empty."""
        both = [(max(a[0], b[0]), min(a[1], b[1])) for a in self.ranges for b in other.ranges]
        return BatchSizes(tuple((low, high) for low, high in both if low <= high))

    def __contains__(self, count: int) -> bool:
        """Whether a batch of `count` is taken."""
        return any(low <= count <= high for low, high in self.ranges)

    def __str__(self) -> str:
        """As a sentence goes on after "batches": "from 1 to 8", "of 1 or from 8 to 32"."""
        return " or ".join(f"of {low}" if low == high else f"from {low} to {high}" for low, high in self.ranges)

    @property
    def min(self) -> int:
        """The smallest batch."""
        return self.ranges[0][0]

    @property
    def max(self) -> int:
        """The largest batch."""
        return self.ranges[-1][1]

    @property
    def first_gap(self) -> tuple[int, int] | None:
        """The first sizes between the smallest and the largest that are not taken, None where all are."""
        return next(((before[1] + 1, after[0] - 1) for before, after in pairwise(self.ranges)), None)

    def at_most(self, count: int) -> int | None:
        """Return the largest size that is `count` or less, None where all are larger."""
        return max((min(high, count) for low, high in self.ranges if low <= count), default=None)


ANY_SIZE = BatchSizes(((1, sys.maxsize),))
"""What a graph of a dynamic batch takes."""
