"""From what a user wrote after --data to the images behind it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from coda_deploy.data import dataset
from coda_deploy.data.array import ArraySource
from coda_deploy.data.folder import FolderSource, search
from coda_deploy.data.shards import ShardSource, expand
from coda_deploy.data.source import ImageSource
from coda_deploy.errors import DataError
from coda_runtime.format.color import STORED, check_color
from coda_runtime.io.image_files import COMPRESSED_TARS, expected_suffixes, has_image_suffix
from coda_runtime.io.omitted import Omitted

_REMOTE = frozenset({"abfs", "az", "file", "ftp", "gcs", "gs", "hdfs", "http", "https", "pipe", "s3"})


def open_source(
    where: str | os.PathLike[str],
    warn: Callable[[str], None] = lambda _: None,
    *,
    mark: Path | None = None,
    color: str = STORED,
) -> ImageSource:
    """Open the images at ``where``.

    That is a folder of image files nested in any way; WebDataset shards as a folder of .tar files, one .tar,
    ``data/*.tar`` or ``data/train-{000..012}.tar``; ``hf:owner/name`` or ``hf:owner/name@split``, or a folder that
    ``datasets`` wrote with ``save_to_disk`` (``path@split``; train by default); or a .npy file of uint8 [N,H,W,3].
    Tar files in a folder that also holds images are not opened. ``warn`` is told, once and in one line, of what in a
    folder or in shards was left out.

    ``mark`` is a hidden file of a folder that is written to, which must not be in one that is searched. ``color`` says
    what becomes of colour profiles, as in ``LoadOptions``.

    Raises ``DataError`` when nothing usable is there, ``InputError`` for another ``color``, ``MissingDependencyError``
    for a dataset without ``datasets``.
    """
    check_color(color)
    omitted = Omitted()
    source = _open(os.fspath(where), omitted, mark, color)
    if omitted:
        warn(omitted.warning(os.fspath(where)))
    return source


def _open(text: str, omitted: Omitted, mark: Path | None, color: str) -> ImageSource:
    if text.startswith(dataset.HUB_PREFIX) and not text.startswith("hf://"):
        return dataset.from_hub(text, color)
    path = Path(text)
    if path.is_dir():
        return _open_folder(path, omitted, mark, color)
    if path.exists():
        return _open_file(path, omitted, color)
    _reject_remote(text)
    base, at, split = text.rpartition("@")
    if at and Path(base).is_dir():
        if not dataset.is_saved(Path(base)):
            raise DataError(f"{base} is not a dataset that save_to_disk wrote and has no split {split!r}: leave out @")
        return dataset.from_disk(Path(base), split, color)
    if any(character in text for character in "*?[{"):
        return ShardSource(expand(text), omitted, color)
    raise DataError(f"there is no file or folder {text!r}; check the path")


def _open_folder(folder: Path, omitted: Omitted, mark: Path | None, color: str) -> ImageSource:
    if dataset.is_saved(folder):
        return dataset.from_disk(folder, color=color)
    found = search(folder, mark)
    omitted.update(found.omitted.to_json())
    if found.images:
        for name in found.shards:
            omitted.add(".tar", name)
        return FolderSource(folder, found.images, color)
    if found.shards:
        return ShardSource([str(folder / name) for name in found.shards], omitted, color)
    holds = f"holds {', '.join(found.others)} and the like" if found.others else "is empty"
    told = f" (left out: {omitted})" if omitted else ""
    raise DataError(
        f"the folder {str(folder)!r} {holds}{told}; expected images ({expected_suffixes()}), .tar shards, "
        "or a dataset written by save_to_disk"
    )


def _open_file(path: Path, omitted: Omitted, color: str) -> ImageSource:
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return ShardSource([str(path)], omitted, color)
    if suffix == ".npy":
        return ArraySource.open(path)
    if has_image_suffix(path.name):
        raise DataError(f"{path} is a single image; expected the folder that holds the images")
    if path.name.lower().endswith(COMPRESSED_TARS):
        raise DataError(f"{path} is compressed and cannot be read at random offsets; decompress it to a plain .tar")
    raise DataError(f"{path} is neither a .tar shard nor a .npy array; expected one of these, or a folder")


def _reject_remote(text: str) -> None:
    # A Path made of a URL has only one of its slashes left.
    scheme = text.partition(":")[0].lower()
    if text.startswith("hf:"):
        raise DataError(
            f"{text!r} is not read as a URL; a dataset on the Hub is named hf:owner/name or hf:owner/name@split"
        )
    if scheme in _REMOTE or "://" in text:
        raise DataError(
            f"{text!r} is a URL, and images are read from local disks only: training asks for them in an exact, "
            "random order; copy the shards to a local disk first"
        )
