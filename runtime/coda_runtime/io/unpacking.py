"""How far a file may unpack: what compressed data says of its own size is looked at before it is believed."""

from __future__ import annotations

from .counts import count

_FREE = 256 << 20
_RATIO = 100


class OversizedError(ValueError):
    """A file would become far more than its own size; the argument says what and how much."""


def max_unpacked(packed: int) -> int:
    """Return the bytes to which so many packed ones may unpack: 256 MiB, or 100 times their own size where it is more.

    Tables, photographs and tokens stay far below.
    """
    return max(_FREE, _RATIO * packed)


def check_unpacked(what: str, unpacked: int, limit: int) -> None:
    """Raise OversizedError if something would become, or has become, more bytes than the limit for its size."""
    if unpacked > limit:
        raise OversizedError(
            f"{what} unpacks to {count(unpacked, 'byte')}, more than the limit of {limit:,} for its size"
        )
