"""Arrays of pixels, checked: what is wrong is said with the expression that mends it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from ..io.masked_arrays import refuse_masked

Pixels: TypeAlias = npt.NDArray[np.uint8]


def check_batch(images: npt.NDArray[Any]) -> None:
    """Raise ImageError unless `images` is uint8 [B,H,W,3] with at least one pixel in each image."""
    _check_dtype(images, "images")
    shape = list(images.shape)
    if images.ndim == 4 and shape[3] == 3 and shape[1] > 0 and shape[2] > 0:
        return
    expected = "expected [B,H,W,3] in RGB"
    if images.ndim == 3 and shape[2] == 3:
        raise ImageError(f"images has shape {shape}; {expected}: add the batch axis, images[None]")
    if images.ndim == 4 and shape[1] == 3:
        raise ImageError(f"images has shape {shape}, channels first; {expected}: images.transpose(0, 2, 3, 1)")
    if images.ndim == 4 and shape[3] == 4:
        raise ImageError(f"images has shape {shape}, with an alpha channel; {expected}: images[..., :3]")
    if (images.ndim == 4 and shape[3] == 1) or images.ndim in (2, 3):
        raise ImageError(f"images has shape {shape}, which looks grey; {expected}: repeat the grey value 3 times")
    raise ImageError(f"images has shape {shape}; {expected}, with at least one pixel")


def check_one(image: npt.NDArray[Any], name: str) -> None:
    """Raise ImageError unless `image` is uint8 [H,W,3] with at least one pixel."""
    _check_dtype(image, name)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"{name} has shape {list(image.shape)}; expected [H,W,3] in RGB, with at least one pixel")


def kind(value: object) -> str:
    """Name the type of a value, as in messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _check_dtype(array: npt.NDArray[Any], name: str) -> None:
    refuse_masked(array, name, ImageError)
    if array.dtype == np.uint8:
        return
    if array.dtype.kind == "f":
        raise ImageError(
            f"{name} is {array.dtype}; expected uint8 from 0 to 255: for values in [0, 1] multiply by 255, "
            "round, and cast with .astype(np.uint8)"
        )
    raise ImageError(f"{name} is {array.dtype}; expected uint8 from 0 to 255: cast with .astype(np.uint8)")
