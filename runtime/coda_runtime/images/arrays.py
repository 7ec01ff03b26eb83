"""Arrays of pixels, checked: what is wrong is said with the expression that mends it, where one is sure to."""

from __future__ import annotations

import os
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
    raise ImageError(f"images has shape {shape}; expected [B,H,W,3] in RGB, with at least one pixel{_reshaped(shape)}")


def _reshaped(shape: list[int]) -> str:
    """Return the expression that makes [B,H,W,3] of an array of this shape, in words; nothing where none is known."""
    if 0 in shape:
        return ""
    grey = "it looks grey: repeat the grey value 3 times, "
    over_white = "[PIL.Image.fromarray(image) for image in {}], which lays it over white"
    alpha = "it has an alpha channel: where nothing is transparent {}, else " + over_white
    match shape:
        case [_, _, 3]:
            return ": add the batch axis, images[None]"
        case [_, 3, _, _]:
            return "; it has channels first: images.transpose(0, 2, 3, 1)"
        case [_, _, _, 4]:
            return "; " + alpha.format("images[..., :3]", "images")
        case [_, _, 4]:
            return "; " + alpha.format("images[None, ..., :3]", "[images]")
        case [3, _, _]:
            return (
                "; if it is one image with channels first, images.transpose(1, 2, 0)[None]; if it is 3 grey ones, "
                "images[..., None].repeat(3, axis=3)"
            )
        case [_, _, _, 1]:
            return f"; {grey}images.repeat(3, axis=3)"
        case [_, _, _]:
            return f"; {grey}images[..., None].repeat(3, axis=3)"
        case [_, _]:
            return f"; {grey}images[None, ..., None].repeat(3, axis=3)"
    return ""


def check_one(image: npt.NDArray[Any], name: str) -> None:
    """Raise ImageError unless `image` is uint8 [H,W,3] with at least one pixel."""
    _check_dtype(image, name)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"{name} has shape {list(image.shape)}; expected [H,W,3] in RGB, with at least one pixel")


def kind(value: object) -> str:
    """Name the type of a value, as in messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def encoded(value: object) -> str:
    """Say what takes the bytes of an image file, where a value is such bytes or a file open for them; else nothing."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return ": the bytes of a file are read by coda_runtime.images.fit_bytes(data, image_size, name=...)"
    if hasattr(value, "read"):
        return ": the bytes of a file are read by coda_runtime.images.fit_bytes(file.read(), image_size, name=...)"
    return ""


def _check_dtype(array: npt.NDArray[Any], name: str) -> None:
    refuse_masked(array, name, ImageError)
    if array.dtype == np.uint8:
        return
    if array.size == 0:
        raise ImageError(f"{name} is empty, {array.dtype} {list(array.shape)}; expected uint8, at least one image")
    raise ImageError(f"{name} is {array.dtype}; expected uint8 from 0 to 255{_cast(array, name)}")


def _cast(array: npt.NDArray[Any], name: str) -> str:
    """Return the expression that makes uint8 of an array, in words, chosen by the values that are in it.

    A bare cast keeps the last 8 bits of a whole number, and makes an image of bool black.
    """
    letter = array.dtype.kind
    if letter in "USO" and isinstance(array.flat[0], (str, bytes, os.PathLike)):
        return f": for images in files pass their paths as a list, {name}.tolist()"
    if letter == "b":
        return f": {name}.astype(np.uint8) * 255"
    if letter not in "iuf":
        return ""
    low, high = array.min(), array.max()
    if letter in "iu":
        # Cameras and scanners put 10 or 12 bits into 16, whose upper 8 are nearly black.
        if array.dtype == np.uint16 and high > 0x7FFF:
            return f": for values of 16 bits keep the upper 8, ({name} >> 8).astype(np.uint8)"
        if low >= 0 and high <= 255:
            return f": its values are, {name}.astype(np.uint8)"
    elif 0 <= low <= high <= 1:
        return f": for values in [0, 1] multiply by 255, round and cast, ({name} * 255).round().astype(np.uint8)"
    elif 0 <= low <= high <= 255:
        return f": for values in [0, 255] round and cast, {name}.round().astype(np.uint8)"
    elif -1 <= low <= high <= 1:
        return f": for values in [-1, 1], ({name} * 127.5 + 127.5).round().astype(np.uint8)"
    return f", found {low} to {high}: bring them there before you cast them"
