"""Several training images of one: crops of it, and their mirror images, always the same ones for the same key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..errors import InputError
from ..format.sizes import Shape, Size, count_of, shape_of
from ..io.counts import count
from .arrays import Pixels
from .opening import explained
from .resizing import covering, lanczos, resize

if TYPE_CHECKING:
    from PIL import Image

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom of a crop, in pixels of the upright image."""

CENTER, TEN = "center", "ten"
MAX_ZOOM = 8.0
MAX_BYTES = 128 << 20
"""Of the pixels of all variants of one image, which are in memory together."""
_RANDOM = re.compile(r"random:([1-9]\d{0,5})")
_ZOOMS = {CENTER: (1.0,), TEN: (1.1,), "random": (1.0, 1.25)}


@dataclass(frozen=True)
class Crop:
    """One variant: uint8 ``pixels`` [height,width,3], the ``box`` they come from, and whether they are mirrored."""

    pixels: Pixels
    box: Box
    flip: bool


@dataclass(frozen=True)
class Variants:
    """What is made of every image.

    Args:
        crops: "center", the middle; "ten", the four corners and the middle, each mirrored too; "random:N", N places.
        flip: makes the mirror image of every crop too, after them; "ten" has them already.
        zoom: how large the image is before it is cropped, in times of the size that covers the crop. "center" and "ten"
            are made once at each zoom; "random:N" draws one for each crop, evenly between the least and the greatest.
            Empty is (1,), (1.1,) and (1, 1.25).
        seed: other random crops come of another one.

    Raises InputError for values that do not fit.
    """

    crops: str = CENTER
    flip: bool = False
    zoom: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crops not in (CENTER, TEN) and not _RANDOM.fullmatch(self.crops):
            raise InputError(f'crops is {self.crops!r}; expected "{CENTER}", "{TEN}", or "random:N" with N from 1')
        if self.crops == TEN and self.flip:
            raise InputError('crops "ten" has the mirror images already; leave out flip')
        zooms = self.zooms
        if not all(1 <= zoom <= MAX_ZOOM for zoom in zooms) or len(set(zooms)) != len(zooms):
            raise InputError(f"zoom is {_listed(zooms)}; expected different numbers from 1 to {MAX_ZOOM:g}")
        if self.crops == TEN and min(zooms) == 1:
            raise InputError('crops "ten" at a zoom of 1 are five times the same; expected a zoom over 1, such as 1.1')

    @property
    def zooms(self) -> tuple[float, ...]:
        """The zooms, those of `crops` where none are given."""
        return self.zoom or _ZOOMS[self.crops.partition(":")[0]]

    @property
    def count(self) -> int:
        """How many variants there are of an image."""
        drawn = _RANDOM.fullmatch(self.crops)
        if drawn is not None:
            return int(drawn[1]) * (1 + self.flip)
        return len(self.zooms) * (10 if self.crops == TEN else 1 + self.flip)

    def to_json(self) -> dict[str, Any]:
        """Return what a plan and a manifest keep."""
        return {"crops": self.crops, "flip": self.flip, "zoom": list(self.zooms), "seed": self.seed}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Variants:
        """Read what `to_json` gave. Raises InputError, TypeError, KeyError."""
        zoom = tuple(float(zoom) for zoom in content["zoom"])
        return cls(str(content["crops"]), bool(content["flip"]), zoom, int(content["seed"]))

    def check(self, size: Size) -> None:
        """Raise InputError where all variants of an image, each of `size`, would take too much memory."""
        taken = self.count * count_of(shape_of(size)) * 3
        if taken > MAX_BYTES:
            raise InputError(
                f"{count(self.count, 'variant')} of each image take {taken >> 20} MiB, and {MAX_BYTES >> 20} are the "
                "most: choose fewer crops, and tokenize to a second folder with another seed"
            )

    def cut(self, image: Image.Image, size: Size, name: str) -> list[Crop]:
        """Cut all variants, in their order, out of an upright image in RGB.

        `name` is the image's key, by which random crops are drawn, and its name in messages. Raises ImageError.
        """
        shape = shape_of(size)
        out: list[Crop] = []
        with explained(name):
            if _RANDOM.fullmatch(self.crops):
                return _mirrored(list(self._random(image, shape, name)), mirror=self.flip)
            for zoom in self.zooms:
                found = _grid(image, shape, zoom, corners=self.crops == TEN)
                out += _mirrored(found, mirror=self.flip or self.crops == TEN)
        return out

    def _random(self, image: Image.Image, shape: Shape, name: str) -> Iterator[Crop]:
        least, greatest = min(self.zooms), max(self.zooms)
        size, target = image.size, shape[::-1]  # as Pillow has it, width first
        for number in range(self.count // (1 + self.flip)):
            drawn = _draw(f"{self.seed}/{number}/{name}")
            zoom = least + (greatest - least) * drawn[0]
            whole = covering(size, (_zoomed(target[0], zoom), _zoomed(target[1], zoom)))
            start = [
                int((side - wanted + 1) * part) for side, wanted, part in zip(whole, target, drawn[1:], strict=True)
            ]
            box = _box(size, whole, start, target)
            yield Crop(np.asarray(lanczos(image, target, box)), box, flip=False)


ONE = Variants()
"""The middle of an image, and nothing else."""


def _grid(image: Image.Image, shape: Shape, zoom: float, *, corners: bool) -> list[Crop]:
    """Cut the four corners, if asked for, and the middle out of the image's middle at a zoom."""
    height, width = shape
    larger = _zoomed(height, zoom), _zoomed(width, zoom)
    whole = covering(image.size, larger[::-1])
    middle = resize(image, larger)
    down, across = larger[0] - height, larger[1] - width
    places = [(0, 0), (0, across), (down, 0), (down, across)] if corners else []
    out = []
    for top, left in [*places, (round(down / 2.0), round(across / 2.0))]:
        start = [
            round((side - wanted) / 2.0) + place
            for side, wanted, place in zip(whole, larger[::-1], (left, top), strict=True)
        ]
        pixels = middle[top : top + height, left : left + width]
        out.append(Crop(pixels, _box(image.size, whole, start, (width, height)), flip=False))
    return out


def _mirrored(crops: list[Crop], *, mirror: bool) -> list[Crop]:
    return crops + [Crop(crop.pixels[:, ::-1], crop.box, flip=True) for crop in crops] if mirror else crops


def _zoomed(side: int, zoom: float) -> int:
    """Return a side at a zoom, rounded down, as LlamaGen's `int(image_size * crop_range)`."""
    return int(side * zoom)


def _box(size: Sequence[int], whole: Sequence[int], start: Sequence[int], target: Sequence[int]) -> Box:
    """Return where the crop of a resized image lies in the image of `size`; all are (across, down)."""
    # The products are exact, so that what ends at the edge ends there.
    left, top = (size[axis] * start[axis] / whole[axis] for axis in (0, 1))
    right, bottom = (size[axis] * (start[axis] + target[axis]) / whole[axis] for axis in (0, 1))
    return left, top, right, bottom


def _draw(text: str) -> tuple[float, float, float]:
    """Return three numbers in [0, 1), drawn by a text: 53 bits each of its SHA-256, the same on every machine."""
    digest = hashlib.sha256(text.encode()).digest()
    first, second, third = (int.from_bytes(digest[at : at + 8], "big") >> 11 for at in (0, 8, 16))
    return first / 2**53, second / 2**53, third / 2**53


def _listed(zooms: Sequence[float]) -> str:
    return ",".join(f"{zoom:g}" for zoom in zooms)
