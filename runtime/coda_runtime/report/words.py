"""Numbers as the report writes them."""

from __future__ import annotations

import math

from ..codes.metrics import percent


def share(value: float | None) -> str:
    """Format a share from 0 to 1 in percent, as tables write it; None was not measured."""
    return "not run" if value is None else percent(value)


def decibel(value: float | None) -> str:
    """Format a PSNR; None and inf both mean identical images."""
    return "identical" if value is None or math.isinf(value) else f"{value:.1f} dB"


def milliseconds(value: float) -> str:
    """Format milliseconds with three digits or so."""
    return f"{_digits(value)} ms"


def duration(seconds: float) -> str:
    """Format a duration with three digits or so, in the unit that has them."""
    if seconds >= 1:
        return f"{_digits(seconds)} s"
    if seconds >= 1e-3 or seconds == 0:
        return milliseconds(seconds * 1e3)
    return f"{_digits(seconds * 1e6)} µs"


def size(number: float) -> str:
    """Format bytes in MiB or GiB."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.0f} MiB"


def rate(value: float) -> str:
    """Format images per second, without the unit."""
    return f"{value:,.0f}" if value >= 100 else _digits(value) if value >= 1 or value == 0 else f"{value:.3g}"


def times(ratio: float) -> str:
    """Format how many times faster something is; under 1 is slower."""
    return f"{ratio:.1f} ×" if ratio >= 10 else f"{ratio:.2f} ×"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
