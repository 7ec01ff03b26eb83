"""Hugging Face datasets, from the Hub or from a folder that ``save_to_disk`` wrote."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from coda_deploy.errors import DataError
from coda_runtime.errors import ImageError, MissingDependencyError, one_line
from coda_runtime.format.color import STORED
from coda_runtime.images import open_rgb
from coda_runtime.io.json_fields import parse_json

HUB_PREFIX = "hf:"
DEFAULT_SPLIT = "train"
COLUMNS = ("image", "img", "jpg", "png")
"""Names by which a column of images is known when its type does not say so, or when several are images."""


class DatasetSource:
    """The images of one split of a ``datasets.Dataset``; the other columns are never read.

    Raises ``DataError`` when no column, or more than one, can be the images.
    """

    def __init__(self, dataset: Any, label: str, color: str = STORED) -> None:
        datasets = _library()
        self._label, self._color = label, color
        self._column = _image_column(dataset, label, datasets)
        try:
            # Undecoded, so that every image goes through the one official way.
            selected = dataset.select_columns([self._column]).with_format(None)
            self._rows = selected.cast_column(self._column, datasets.Image(decode=False))
        except Exception as error:  # what Arrow raises for a type that does not fit
            raise DataError(
                f"{label}: the column {self._column!r} holds no images ({one_line(error, line=0)})"
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return f"{self._label}[{index}]"

    def image(self, index: int) -> Image.Image:
        name = self.name(index)
        value = self._rows[index][self._column] or {}
        if value.get("bytes") is not None:
            return open_rgb(io.BytesIO(value["bytes"]), name=name, color=self._color)
        if value.get("path") is not None:
            return open_rgb(value["path"], name=name, color=self._color)
        raise ImageError(f"{name!r} is empty: it has neither bytes nor a path")


def from_hub(where: str, color: str = STORED) -> DatasetSource:
    """Open ``hf:owner/name[@split]``, downloaded once. Raises ``DataError``, ``MissingDependencyError``."""
    name, _, split = where.removeprefix(HUB_PREFIX).partition("@")
    if not name:
        raise DataError(f"{where!r} does not name a dataset; expected hf:owner/name or hf:owner/name@split")
    datasets = _library()
    try:
        dataset = datasets.load_dataset(name, split=split or DEFAULT_SPLIT)
    except Exception as error:  # the Hub, the network, the builder: each raises its own
        raise DataError(
            f"{where}: the dataset could not be loaded from Hugging Face ({one_line(error, line=0)}); check its "
            "name, the split and the network"
        ) from error
    return DatasetSource(dataset, where, color)


def is_saved(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote this folder."""
    return _has_splits(folder) or all((folder / name).is_file() for name in ("dataset_info.json", "state.json"))


def from_disk(folder: Path, split: str | None = None, color: str = STORED) -> DatasetSource:
    """Open a folder for which ``is_saved`` holds; ``split`` is None for the default. Raises ``DataError``."""
    datasets = _library()
    label = str(folder)
    if _has_splits(folder):
        splits = _splits(folder)
        split = split or DEFAULT_SPLIT
        if split not in splits:
            raise DataError(
                f"{folder} has no split {split!r}, but {', '.join(splits) or 'none at all'}: name one as {folder}@split"
            )
        label, folder = f"{folder}@{split}", folder / split
    elif split is not None:
        raise DataError(f"{folder} is a dataset without splits: leave out @{split}")
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # Arrow's for a damaged file, the library's for a foreign one
        raise DataError(
            f"{label} cannot be read as a saved dataset ({one_line(error, line=0)}); save it again"
        ) from error
    return DatasetSource(dataset, label, color)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "reading Hugging Face datasets needs the library datasets, which is not installed",
            "datasets",
            extra="train",
        ) from error
    return datasets


def _has_splits(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file()


def _splits(folder: Path) -> list[str]:
    try:
        data = parse_json((folder / "dataset_dict.json").read_bytes())
        return [str(name) for name in data["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}/dataset_dict.json lists no splits ({error!r}); save the dataset again") from error


def _image_column(dataset: Any, label: str, datasets: Any) -> str:
    names = list(dataset.features)
    typed = [name for name in names if isinstance(dataset.features[name], datasets.Image)]
    candidates = typed if len(typed) == 1 else [name for name in COLUMNS if name in (typed or names)]
    if candidates:
        return str(candidates[0])
    if typed:
        raise DataError(f"{label} has several columns of images ({', '.join(typed)}); rename the one to use to 'image'")
    raise DataError(
        f"{label} has no column of images (it has {', '.join(names)}); expected one of the type datasets.Image, "
        f"or one named {', '.join(COLUMNS)}"
    )
