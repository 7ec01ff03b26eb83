"""The images of one call, whatever they are, as slices that an encoder takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from ..errors import ImageError
from ..format.color import STORED, check_color
from ..format.sizes import Size, shape_of
from ..machine.processors import usable_count
from .arrays import Pixels, check_batch, encoded, kind
from .profiles import IgnoredProfiles
from .resizing import fit

if TYPE_CHECKING:
    from PIL import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | Pixels"
Images: TypeAlias = "Pixels | Sequence[ImageLike]"

T = TypeVar("T")

_MAX_AT_ONCE = 8  # images in memory in their own size


class Batches:
    """The images of one call, checked as far as that is cheap; `take` makes slices ready for the encoder.

    `images` is uint8 [B,H,W,3], or a sequence of paths, PIL images and uint8 [H,W,3] arrays of any, mixed sizes; `size`
    is what they are brought to, a side or (height, width).
    `color` says what their values mean, as for `fit_bytes`; `ignored` counts profiles that are ignored. Raises
    ImageError for anything else, and for an empty batch.
    """

    def __init__(self, images: Any, size: Size, color: str = STORED, *, ignored: IgnoredProfiles | None = None) -> None:
        check_color(color)
        self._size, self._shape, self._color = size, shape_of(size), color
        self.ignored = IgnoredProfiles() if ignored is None else ignored
        self._array: Pixels | None = None
        self._items: Sequence[Any] = ()
        if isinstance(images, np.ndarray):
            check_batch(images)
            self._array = images
            self._count = len(images)
        else:
            self._items = _check_sequence(images)
            self._count = len(self._items)
        if self._count == 0:
            raise ImageError("the batch is empty; pass at least one image")

    def __len__(self) -> int:
        return self._count

    def take(self, where: slice) -> Pixels:
        """Take the images of a slice, uint8 [b,H,W,3]. Raises ImageError, MissingDependencyError."""
        if self._array is not None:
            if self._array.shape[1:3] == self._shape:
                return np.ascontiguousarray(self._array[where])
            return self._fit_all(list(self._array[where]), where.start)
        return self._fit_all(self._items[where], where.start)

    def try_each(self, where: slice) -> list[Pixels | ImageError]:
        """Take the images of a slice of a sequence, each uint8 [H,W,3], or why it cannot be read."""
        return self._map(self._try, self._items[where], where.start)

    def _fit_all(self, items: Sequence[Any], start: int) -> Pixels:
        return np.stack(self._map(self._fit, items, start))

    def _map(self, function: Callable[..., T], items: Sequence[Any], start: int) -> list[T]:
        """Fit as many at a time as there are processors: Pillow decodes and resizes outside the interpreter's lock."""
        names = [f"images[{number}]" for number in range(start, start + len(items))]
        # An image that Pillow opened is read only now, and not by two threads at once.
        opened = [id(item) for item in items if not isinstance(item, (str, os.PathLike, np.ndarray))]
        alone = len(items) == 1 or len(set(opened)) < len(opened) or all(map(self._is_ready, items))
        # Asked last: a container's quota is read from files, which takes longer than a small image.
        workers = 1 if alone else min(len(items), usable_count(), _MAX_AT_ONCE)
        if workers == 1:
            return [function(item, name) for item, name in zip(items, names, strict=True)]
        with ThreadPoolExecutor(workers) as pool:
            try:
                return list(pool.map(function, items, names))
            finally:
                pool.shutdown(cancel_futures=True)  # the first bad image ends the call

    def _fit(self, item: Any, name: str) -> Pixels:
        return fit(item, self._size, name=name, color=self._color, ignored=self.ignored)

    def _try(self, item: Any, name: str) -> Pixels | ImageError:
        try:
            return self._fit(item, name)
        except ImageError as error:
            return error

    def _is_ready(self, item: Any) -> bool:
        return isinstance(item, np.ndarray) and item.shape[:2] == self._shape


def _check_sequence(images: Any) -> Sequence[Any]:
    if isinstance(images, (list, tuple)):
        return images
    if isinstance(images, (str, os.PathLike)) or hasattr(images, "convert"):
        raise ImageError("images is a single image; expected a list: put it in brackets, [image]")
    if hasattr(images, "__array__"):
        raise ImageError(f"images is a {kind(images)}; expected a numpy array: for a tensor, images.cpu().numpy()")
    raise ImageError(
        f"images is a {kind(images)}; expected uint8 [B,H,W,3], or a list of paths, PIL images or uint8 arrays"
        f"{encoded(images)}"
    )
