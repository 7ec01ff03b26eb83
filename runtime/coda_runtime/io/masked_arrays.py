"""Masked arrays: numpy's own checks pass over what is masked, and what is behind the mask would be taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .counts import count, plural


def refuse_masked(array: npt.NDArray[Any], name: str, error: type[InputError] = InputError) -> None:
    """Raise `error` for an array of which something is masked."""
    if not isinstance(array, np.ma.MaskedArray):
        return
    masked = int(np.count_nonzero(array.mask))
    if masked:
        raise error(
            f"{name} is a masked array, and {masked} of its {count(array.size, 'value')} {plural(masked, 'is', 'are')} "
            f"masked; expected a value everywhere: leave out what has none, or give it one, {name}.filled(value)"
        )
