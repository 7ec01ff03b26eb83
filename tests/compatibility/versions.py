"""What each version of the project wrote, and what its tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

RELEASED = Path(__file__).with_name("data")
# Another folder, for what write.py has just written there.
DATA = Path(os.environ.get("CODA_COMPATIBILITY_DATA") or RELEASED)
VERSIONS = sorted(
    (path.name for path in DATA.iterdir() if not path.name.startswith(".")),
    key=lambda name: [int(piece) for piece in name.split(".")],
)
# A plan names its source, and one on this machine by its absolute path, which is another in every checkout.
SOURCE = "memory://compatibility/pictures"
BROKEN = "first/03.png"
"""The one of the pictures that is not an image."""
# How the folders of tokens were asked for; `chunk` does not change what they hold.
SHARD_SIZE = 3
TOKENIZE: dict[str, Any] = {"shard_size": SHARD_SIZE, "chunk": SHARD_SIZE, "label": "folder", "original_size": True}

Array = np.ndarray[Any, Any]


def is_of_release(folder: Path, version: str) -> bool:
    """Tell a release's own files from those that today's code writes before its number is raised."""
    return folder == RELEASED / version


def readable(folder: Path) -> list[Path]:
    """The images in a version's ``pictures``, in the order of `coda tokenize`."""
    return [path for path in sorted((folder / "pictures").rglob("*.png")) if not path.match(BROKEN)]


def expected(folder: Path) -> dict[str, Array]:
    """What the bundle made of ``readable``: ids, decoded, embedded; coarse, of two scales; ids of the imported one."""
    with np.load(folder / "expected" / "images.npz") as file:
        return dict(file)


def same_images(found: Array, then: Array) -> None:
    """Fail unless uint8 images are equal, but for values that other processors round to the other side."""
    assert found.shape == then.shape
    difference = np.abs(found.astype(int) - then.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@contextmanager
def pictures_at_source(folder: Path) -> Iterator[str]:
    """Hold a version's ``pictures`` at SOURCE, in this process, while the block runs."""
    memory = fsspec.filesystem("memory")
    place = SOURCE.removeprefix("memory:/")
    for path in (folder / "pictures").rglob("*.png"):
        memory.pipe_file(f"{place}/{path.relative_to(folder / 'pictures').as_posix()}", path.read_bytes())
    try:
        yield SOURCE
    finally:
        memory.rm(place, recursive=True)
