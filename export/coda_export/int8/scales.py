"""What int8's scales are taken from in an export, and how its manifest tells it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_export.int8.calibration import Calibration
from coda_export.int8.quantize import check_quantizer
from coda_runtime.errors import InputError
from coda_runtime.format.parts import Part
from coda_runtime.format.precision import precision_of
from coda_runtime.parity import ParitySamples, Reference

_CALIBRATION = "calibration"


@dataclass(frozen=True)
class Scales:
    """What int8's scales are taken from: images, and the tokenizer that turns them into a decoder's ids."""

    calibration: Calibration
    reference: Reference

    def inputs(self, part: Part) -> NDArray[Any]:
        """Return what a part is calibrated on, [N, ...]."""
        return self.taken.of(part.input)

    @functools.cached_property
    def taken(self) -> ParitySamples:
        """The images and what the tokenizer makes of them."""
        return ParitySamples.take(self.reference, self.calibration.pixels)


def scales_for(
    precisions: Sequence[str],
    calibration: Calibration | None,
    reference: Reference,
    *measured: NDArray[np.uint8] | None,
) -> Scales | None:
    """Return what the scales of ``precisions`` are taken from, None where none has any.

    Raises ``InputError`` without images, or for those that parity is ``measured`` on, ``MissingDependencyError``
    without the quantizer.
    """
    needing = [precision for precision in precisions if precision_of(precision).is_integer]
    if not needing:
        return None
    check_quantizer()
    if calibration is None:
        raise InputError(f"{', '.join(needing)} needs images to take its scales from: give calibration")
    for pixels in measured:
        if pixels is not None:
            calibration.check_apart(pixels)
    return Scales(calibration, reference)


def calibrated(precisions: Sequence[str], scales: Scales | None) -> dict[str, Any]:
    """Return the manifest's record of what each precision's scales were taken from, by precision; nothing without."""
    if scales is None:
        return {}
    told = scales.calibration.provenance()
    return {_CALIBRATION: {name: told for name in precisions if precision_of(name).is_integer}}
