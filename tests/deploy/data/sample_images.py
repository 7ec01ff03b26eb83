"""Small real image files in folders and tar files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from coda_deploy.data import ImageSource
from tests.runtime.tiny import photos

Pixels = npt.NDArray[np.uint8]


def photo(number: int = 0, height: int = 40, width: int = 56) -> Pixels:
    """uint8 [height,width,3], another for each number."""
    out: Pixels = photos(1, height, width, seed=number)[0]
    return out


def encode(image: npt.NDArray[Any] | Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **settings)
    return file.getvalue()


def write_folder(folder: Path, count: int) -> Path:
    """PNG photographs 00.png, 01.png, ... of unequal sizes."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(encode(photo(number, 40 + number, 56 - number)))
    return folder


def write_tar(path: Path, members: Mapping[str, bytes], **settings: Any) -> Path:
    with tarfile.open(path, "w", **settings) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def names(source: ImageSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def pixels(source: ImageSource, index: int) -> Pixels:
    image = source.image(index)
    assert image.mode == "RGB"
    return np.asarray(image)
