"""Masked arrays: numpy's own checks pass over what is masked, and what is behind the mask would be taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError


def refuse_masked(array: npt.NDArray[Any], name: str, error: type[InputError] = InputError) -> None:
    """Raise `error` for an array of which something is masked."""
    if not isinstance(array, np.ma.MaskedArray):
        return
    masked = int(np.count_nonzero(array.mask))
    if masked:
        raise error(
            f"{name} is a masked array, and {masked} of its {array.size} values are masked; expected a value "
            f"everywhere: leave out what has none, or give it one, {name}.filled(value)"
        )
