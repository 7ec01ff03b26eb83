"""Generation scale by scale: what has been added so far, and what the next scale is generated from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import host_view
from .codes.ids import Ids, check_scale
from .codes.scale_sums import Float32, rows_of, spread
from .errors import InputError, TokenError
from .format.parts import LATENT
from .format.spec import Spec
from .io.json_fields import is_int


def check_images(B: Any) -> None:
    """Raise InputError unless `B` can be how many images are generated."""
    if not is_int(B) or B < 1:
        raise InputError(f"B is {B!r}; expected how many images are generated, a whole number from 1")


class Accumulator:
    """Generation of `B` images, scale by scale. Made by `Tokenizer.accumulator`; for one thread.

    `latent` is the sum so far, `ids` what was added, and `image` decodes it.
    """

    def __init__(self, spec: Spec, table: Float32, B: int, decode: Callable[[Ids], npt.NDArray[np.uint8]]) -> None:
        check_images(B)
        self._spec, self._table, self._decode = spec, table, decode
        self._ids = np.empty((B, 0), np.int32)
        self._latent: Float32 = np.zeros(LATENT.shape(spec, B), LATENT.dtype)
        self._scales = 0

    def add(self, ids: Any) -> Float32 | None:
        """Add the ids of the next scale, and return what a generator gets for the one after it.

        Args:
            ids: [B,h,w] or [B,h*w], row-major, of any integer dtype, each in [0, V). An array of numpy, or of any
                library that speaks DLPack, in host memory.

        Returns:
            The sum so far, area-downsampled to the scale after this one: float32 [B,h'*w',C], row-major. None after the
            last scale.

        Raises:
            TokenError: wrong dtype or shape, an id out of range, or no scale left; nothing is added then.
            InputError: an array that lies elsewhere than in host memory.
        """
        shapes = self._spec.scale_shapes
        rows = len(self._latent)
        checked = check_scale(host_view(ids, "ids"), self._spec, self._scales, rows)
        self._latent = self._latent + spread(checked.reshape(rows, *shapes[self._scales]), self._spec, self._table)
        self._ids = np.concatenate([self._ids, checked], 1)
        self._scales += 1
        return rows_of(self._latent, shapes[self._scales]) if self._scales < len(shapes) else None

    @property
    def latent(self) -> Float32:
        """The quantised latent of what was added, float32 [B,C,h,w]: zeros at first. A copy."""
        return self._latent.copy()

    @property
    def ids(self) -> Ids:
        """What was added, int32 [B,n], coarse to fine and row-major inside a scale. A copy."""
        return self._ids.copy()

    def image(self) -> npt.NDArray[np.uint8]:
        """Decode what was added, uint8 [B,H,W,3]: of some scales alone the coarse images that they make.

        Raises TokenError before the first scale, DeviceMemoryError, ClosedError.
        """
        if not self._scales:
            raise TokenError("no scale has been added, so there is nothing to decode; call add first")
        return self._decode(self._ids)
