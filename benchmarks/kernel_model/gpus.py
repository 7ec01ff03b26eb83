"""GPUs as their makers describe them: multiprocessors, clocks, pipes, memory."""

from __future__ import annotations

from dataclasses import dataclass

EFFICIENCY = 0.75
"""The share of a published peak that good code reaches."""


@dataclass(frozen=True)
class Chip:
    """A GPU. `clock` in Hz is the one of the published peaks, `bandwidth` in bytes a second.

    `fma` is how many cycles a scheduler's float32 pipe takes for one instruction of a warp, `alu` the same for
    comparisons, selections, minima and maxima; `tensor` for one m16n8k16 product of halves with float32 sums.
    From the CUDA C++ Programming Guide (throughput of native arithmetic instructions) and the white papers.
    """

    name: str
    capability: str
    processors: int
    clock: float
    bandwidth: float
    fma: float
    alu: float
    tensor: float


CHIPS = (
    Chip("H100", "sm90", 132, 1.98e9, 3.35e12, 1, 2, 4),
    Chip("H200", "sm90", 132, 1.98e9, 4.8e12, 1, 2, 4),
    Chip("A100", "sm80", 108, 1.41e9, 2.04e12, 2, 2, 8),
    Chip("L4", "sm89", 58, 2.04e9, 0.3e12, 1, 2, 16),
    Chip("4090", "sm89", 128, 2.52e9, 1.01e12, 1, 2, 16),
    Chip("5090", "sm120", 170, 2.41e9, 1.79e12, 1, 2, 16),
)
"""The issue's five, and the H200 that was measured first. Tensor cores of consumer GPUs halve with float32 sums."""
