"""Images in: checks, and the one official way from any picture to uint8 [S,S,3].

The rule, as PyTorch's `Resize(S, LANCZOS)` and `CenterCrop(S)` on a PIL image: turn upright by EXIF, convert to RGB
(transparent pixels over white, 16-bit grey to 8), scale the shorter side to S with Lanczos, cut out the centre. An
array that already is S x S goes through untouched and needs no Pillow.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ImageError, MissingDependencyError
from .processors import usable_cpus

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | Pixels"
Images: TypeAlias = "Pixels | Sequence[ImageLike]"
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes by which a folder is searched for images."""

_MOST_AT_ONCE = 8  # pictures in memory in their own size
_LONG_SIDE_LIMIT = 8  # times S; a longer strip is cropped while it is resized, which saves its memory


class Batches:
    """The images of one call, checked as far as that is cheap; `take` makes slices ready for the encoder.

    `images` is uint8 [B,H,W,3], or a sequence of paths, PIL images and uint8 [H,W,3] arrays of any, mixed sizes.
    Raises ImageError for anything else, and for an empty batch.
    """

    def __init__(self, images: Any, size: int) -> None:
        self._size = size
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
        """The images of a slice, uint8 [b,S,S,3]. Raises ImageError, MissingDependencyError."""
        square = (self._size, self._size)
        if self._array is not None:
            if self._array.shape[1:3] == square:
                return np.ascontiguousarray(self._array[where])
            return self._fit_all(list(self._array[where]), where.start)
        return self._fit_all(self._items[where], where.start)

    def _fit_all(self, items: Sequence[Any], start: int) -> Pixels:
        """As many at a time as there are processors: Pillow decodes and resizes outside the interpreter's lock."""
        names = [f"images[{number}]" for number in range(start, start + len(items))]
        workers = min(len(items), len(usable_cpus()), _MOST_AT_ONCE)
        # An image that Pillow opened is read only now, and not by two threads at once.
        opened = [id(item) for item in items if not isinstance(item, (str, os.PathLike, np.ndarray))]
        if workers == 1 or len(set(opened)) < len(opened) or all(map(self._is_ready, items)):
            return np.stack([fit(item, self._size, name=name) for item, name in zip(items, names, strict=True)])
        with ThreadPoolExecutor(workers) as pool:
            try:
                return np.stack(list(pool.map(lambda item, name: fit(item, self._size, name=name), items, names)))
            finally:
                pool.shutdown(cancel_futures=True)  # the first bad image ends the call

    def _is_ready(self, item: Any) -> bool:
        return isinstance(item, np.ndarray) and item.shape[:2] == (self._size, self._size)


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


def fit(image: Any, size: int, *, name: str = "the image") -> Pixels:
    """One path, PIL image or uint8 [H,W,3] array -> uint8 [size,size,3] by the official rule.

    Raises ImageError naming the file for what cannot be read, MissingDependencyError when Pillow is needed and absent.
    """
    if isinstance(image, np.ndarray):
        _check_dtype(image, name)
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(f"{name} has shape {list(image.shape)}; expected [H,W,3] in RGB, with at least one pixel")
        if image.shape[:2] == (size, size):
            return image
        return _resize(require_pillow().fromarray(np.ascontiguousarray(image)), size)
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
    elif not isinstance(image, require_pillow().Image):
        raise ImageError(f"{name} is a {_kind(image)}; expected a path, a PIL image or a uint8 [H,W,3] array")
    rgb = open_rgb(image, name=name)
    with _explained(name):
        return _resize(rgb, size)


def fit_bytes(
    data: bytes, size: int, *, name: str, formats: Sequence[str] | None = None, max_pixels: int | None = None
) -> Pixels:
    """The bytes of an image file -> uint8 [size,size,3] by the official rule.

    Args:
        data: a whole file, such as a JPEG.
        size: side of the result, in pixels.
        name: stands for it in messages.
        formats: Pillow's names of those that may be read, such as ("JPEG", "PNG"); None is every one Pillow knows.
        max_pixels: width times height that the file's header may say, checked before a pixel is decoded; None leaves
            it to Pillow's own limit.

    Raises:
        ImageError: it cannot be read, is of another format, or is larger than that.
        MissingDependencyError: Pillow is not installed.
    """
    rgb = open_rgb(io.BytesIO(data), name=name, formats=formats, max_pixels=max_pixels)
    with _explained(name):
        return _resize(rgb, size)


def open_rgb(
    source: str | os.PathLike[str] | IO[bytes] | Image.Image,
    *,
    name: str,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """A path, an open image file or a PIL image -> the picture upright and in RGB, in its own size.

    `name`, `formats`, `max_pixels` and the errors are those of `fit_bytes`.
    """
    pillow = require_pillow()
    with _explained(name):
        if isinstance(source, pillow.Image):
            return _upright(source, name)
        with pillow.open(source, formats=formats) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise ImageError(
                    f"{name!r} has {image.width} x {image.height} pixels, and {max_pixels} is the most that is taken "
                    "here; scale it down"
                )
            return _upright(image, name)


def require_pillow() -> Any:
    """The module PIL.Image, imported now. Raises MissingDependencyError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("reading and resizing images needs Pillow, which is not here", "images") from error
    return Image


def _upright(image: Image.Image, name: str) -> Image.Image:
    from PIL import ExifTags, ImageOps

    # An image that Pillow opened is read only now, so a cut file shows here; and some formats end with their EXIF.
    image.load()
    lies = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    # exif_transpose copies what stands upright, too: a tenth of the time that a camera's picture takes.
    return _to_rgb(ImageOps.exif_transpose(image) if lies else image, name)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError that names the image."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"there is no image {name!r}; check the path") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name!r} has too many pixels to be safe ({error}); scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name!r} is not an image that Pillow can read; convert it to PNG or JPEG") from error
    except OSError as error:
        raise ImageError(f"{name!r} cannot be read as an image ({error.strerror or error}); is it cut?") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        raise ImageError(f"{name!r} cannot be decoded ({type(error).__name__}: {error}); is it damaged?") from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    from PIL import Image

    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name!r} has {image.width} x {image.height} pixels; expected at least one")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"{name!r} has 32-bit grey values of unknown range (mode {image.mode}); convert it to 8-bit")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    return image.convert("RGB")


def _resize(image: Image.Image, size: int) -> Pixels:
    from PIL.Image import Resampling

    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    if max(width, height) > _LONG_SIDE_LIMIT * size:
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return np.asarray(image.resize((size, size), Resampling.LANCZOS, box=box))
    if (width, height) != image.size:
        image = image.resize((width, height), Resampling.LANCZOS)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _check_dtype(array: npt.NDArray[Any], name: str) -> None:
    if array.dtype == np.uint8:
        return
    if array.dtype.kind == "f":
        raise ImageError(
            f"{name} is {array.dtype}; expected uint8 from 0 to 255: for values in [0, 1] multiply by 255, "
            "round, and cast with .astype(np.uint8)"
        )
    raise ImageError(f"{name} is {array.dtype}; expected uint8 from 0 to 255: cast with .astype(np.uint8)")


def _check_sequence(images: Any) -> Sequence[Any]:
    if isinstance(images, (list, tuple)):
        return images
    if isinstance(images, (str, os.PathLike)) or hasattr(images, "convert"):
        raise ImageError("images is a single image; expected a list: put it in brackets, [image]")
    if hasattr(images, "__array__"):
        raise ImageError(f"images is a {_kind(images)}; expected a numpy array: for a tensor, images.cpu().numpy()")
    raise ImageError(
        f"images is a {_kind(images)}; expected uint8 [B,H,W,3], or a list of paths, PIL images or uint8 arrays"
    )


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
