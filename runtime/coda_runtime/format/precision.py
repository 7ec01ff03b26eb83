"""The precisions that graphs come in."""

from __future__ import annotations

FP32 = "fp32"
