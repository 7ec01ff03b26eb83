"""The images that int8's scales are taken from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_runtime.errors import InputError
from coda_runtime.io.counts import count


@dataclass(frozen=True)
class Calibration:
    """Images, uint8 [N, H, W, 3] of the tokenizer's size, the names of their files, and where they are from."""

    pixels: NDArray[np.uint8]
    names: Sequence[str]
    source: str

    def __post_init__(self) -> None:
        """Raise ``InputError`` unless there are images, each with a name."""
        if not len(self.pixels) or len(self.pixels) != len(self.names):
            raise InputError(
                f"calibration has {count(len(self.pixels), 'image')} and {len(self.names)} names; expected as many"
            )

    def check_apart(self, measured: NDArray[np.uint8]) -> None:
        """Raise ``InputError`` naming each image that parity is ``measured`` on, by the SHA-256 of its pixels."""
        known = {_digest(image) for image in measured}
        both = [name for name, image in zip(self.names, self.pixels, strict=True) if _digest(image) in known]
        if both:
            raise InputError(
                f"{', '.join(both)}: parity is measured on {'it' if len(both) == 1 else 'them'}, which would flatter a "
                "calibration on the same; leave out of --calibration DIR what --parity-images or the package has"
            )

    def provenance(self) -> dict[str, Any]:
        """Return what the manifest tells: how many, where from, the SHA-256 of all pixels."""
        return {"images": len(self.pixels), "images_from": self.source, "sha256": _digest(self.pixels)}


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
