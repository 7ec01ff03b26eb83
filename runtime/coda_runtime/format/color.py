"""What the numbers in an image file are taken for: colours as they stand there, or by the ICC profile beside them."""

from __future__ import annotations

from ..errors import InputError

STORED = "stored"
"""Profiles are ignored, as the published tokenizers' own code ignores them."""
SRGB = "srgb"
"""An image with a profile is converted to sRGB by it."""
COLORS = (STORED, SRGB)


def check_color(color: object) -> None:
    """Raise InputError for what is none of COLORS."""
    if color not in COLORS:
        raise InputError(f"color is {color!r}; expected {' or '.join(map(repr, COLORS))}")
