from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_deploy.data import DataError, open_source
from coda_deploy.data.dataset import DatasetSource
from coda_runtime import ImageError, MissingDependencyError
from tests.deploy.data.sample_images import encode, names, photo, pixels, write_folder

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def _dataset(columns: dict[str, list[Any]], *images: str) -> Any:
    features = datasets.Features(
        {name: datasets.Image() if name in images else datasets.Value("int64") for name in columns}
    )
    return datasets.Dataset.from_dict(columns, features=features)


def _photos(count: int = 3) -> list[dict[str, Any]]:
    return [{"bytes": encode(photo(number)), "path": None} for number in range(count)]


def test_a_saved_dataset_gives_its_images(tmp_path: Path) -> None:
    _dataset({"label": [0, 1, 2], "picture": _photos()}, "picture").save_to_disk(tmp_path / "saved")
    source = open_source(tmp_path / "saved")
    assert isinstance(source, DatasetSource)
    assert names(source) == [f"{tmp_path}/saved[{index}]" for index in range(3)]
    for copy in (source, pickle.loads(pickle.dumps(source))):
        for index in range(3):
            np.testing.assert_array_equal(pixels(copy, index), photo(index))
    with pytest.raises(DataError, match="is a dataset without splits: leave out @train"):
        open_source(f"{tmp_path}/saved@train")


def test_a_saved_dataset_with_splits(tmp_path: Path) -> None:
    splits = {"train": _dataset({"image": _photos(3)}, "image"), "test": _dataset({"image": _photos(1)}, "image")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert len(open_source(tmp_path / "saved")) == 3
    source = open_source(f"{tmp_path}/saved@test")
    assert names(source) == [f"{tmp_path}/saved@test[0]"]
    with pytest.raises(DataError, match=r"has no split 'valid', but train, test: name one as .*saved@split"):
        open_source(f"{tmp_path}/saved@valid")
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match=r"dataset_dict\.json lists no splits"):
        open_source(tmp_path / "saved")


def test_images_by_path_and_missing_ones(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "files", 1)
    rows = [str(folder / "00.png"), str(folder / "gone.png"), None, {"bytes": b"text", "path": "x.png"}]
    source = DatasetSource(_dataset({"image": rows}, "image"), "rows")
    np.testing.assert_array_equal(pixels(source, 0), photo(0))
    for index, match in ((1, r"there is no image 'rows\[1\]'"), (2, r"'rows\[2\]' is empty"), (3, "is not an image")):
        with pytest.raises(ImageError, match=match):
            source.image(index)


def test_the_column_is_found_by_type_and_then_by_name() -> None:
    two = {"jpg": _photos(1), "mask": [{"bytes": encode(photo(9)), "path": None}]}
    np.testing.assert_array_equal(pixels(DatasetSource(_dataset(two, "jpg", "mask"), "x"), 0), photo(0))
    typed: dict[str, list[Any]] = {"image": [5], "mask": two["mask"]}
    np.testing.assert_array_equal(pixels(DatasetSource(_dataset(typed, "mask"), "x"), 0), photo(9))
    plain = datasets.Dataset.from_dict({"label": [1], "img": [encode(photo(3))]})
    np.testing.assert_array_equal(pixels(DatasetSource(plain, "x"), 0), photo(3))


def test_a_format_the_user_set_does_not_matter() -> None:
    rows = _dataset({"image": _photos()}, "image").with_format("numpy")
    np.testing.assert_array_equal(pixels(DatasetSource(rows, "x"), 1), photo(1))


def test_columns_that_cannot_be_the_images_are_explained() -> None:
    with pytest.raises(DataError, match=r"x has no column of images \(it has label\); expected one of the type"):
        DatasetSource(_dataset({"label": [1]}), "x")
    with pytest.raises(DataError, match=r"several columns of images \(left, right\); rename the one to use"):
        DatasetSource(_dataset({"left": _photos(), "right": _photos()}, "left", "right"), "x")
    with pytest.raises(DataError, match="x: the column 'image' holds no images"):
        DatasetSource(_dataset({"image": [1, 2]}), "x")


def test_a_damaged_dataset_is_explained(tmp_path: Path) -> None:
    _dataset({"image": _photos()}, "image").save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "saved").glob("*.arrow"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="saved cannot be read as a saved dataset"):
        open_source(tmp_path / "saved")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which `datasets` finds owner/name before it asks the Hub, which is out of reach."""
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_hub_datasets_by_name_and_split(hub: Path) -> None:
    write_folder(hub / "owner" / "name" / "train", 3)
    write_folder(hub / "owner" / "name" / "test", 1)
    source = open_source("hf:owner/name")
    assert names(source) == [f"hf:owner/name[{index}]" for index in range(3)]
    np.testing.assert_array_equal(pixels(source, 1), photo(1, 41, 55))
    assert names(open_source("hf:owner/name@test")) == ["hf:owner/name@test[0]"]
    with pytest.raises(
        DataError, match=r"hf:owner/name@valid: the dataset could not be loaded from Hugging Face .*Unknown split"
    ):
        open_source("hf:owner/name@valid")


def test_a_hub_that_does_not_answer_is_one_line(hub: Path) -> None:
    with pytest.raises(
        DataError, match=r"^hf:owner/missing: the dataset could not be loaded from Hugging Face \(.+\); check"
    ):
        open_source("hf:owner/missing")


def test_without_the_library_the_pip_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dataset({"image": _photos()}, "image").save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for where in (str(tmp_path / "saved"), "hf:owner/name"):
        with pytest.raises(MissingDependencyError, match='pip install "datasets>='):
            open_source(where)
