"""Images that lie in one array, in memory or in a .npy file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from coda_deploy.data.source import printable
from coda_deploy.errors import DataError
from coda_runtime.errors import ImageError
from coda_runtime.images import check_batch


class ArraySource:
    """uint8 [N,H,W,3] in RGB. Raises ``ImageError`` for any other array."""

    def __init__(self, pixels: npt.NDArray[Any], label: str = "array") -> None:
        check_batch(pixels)
        if len(pixels) == 0:
            raise ImageError("the array holds no images; expected at least one")
        self._pixels = pixels
        self._label = label
        self._file: str | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ArraySource:
        """Map a .npy file, of which only the images asked for are read. Raises ``DataError``."""
        path = os.fspath(path)
        try:
            source = cls(np.load(path, mmap_mode="r", allow_pickle=False), printable(path))
        except ImageError as error:
            raise DataError(f"{path}: {error}") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path} cannot be read as a NumPy array ({error}); expected uint8 [N,H,W,3] as numpy.save writes it"
            ) from error
        source._file = path
        return source

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled, a mapped array would travel to a spawned worker whole.
        return (ArraySource.open, (self._file,)) if self._file else (ArraySource, (self._pixels, self._label))

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, index: int) -> str:
        return f"{self._label}[{index}]"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self._pixels[index]))
