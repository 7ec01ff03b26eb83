from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_deploy.data import DataError, open_source
from coda_deploy.data.array import ArraySource
from coda_runtime import ImageError
from tests.deploy.data.sample_images import names, photo, pixels

PHOTOS = np.stack([photo(number) for number in range(3)])


def test_a_file_is_mapped_and_gives_its_images(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", PHOTOS)
    source = open_source(tmp_path / "train.npy")
    assert isinstance(source, ArraySource)
    assert names(source) == [f"{tmp_path}/train.npy[{index}]" for index in range(3)]
    for index in range(3):
        np.testing.assert_array_equal(pixels(source, index), PHOTOS[index])


def test_a_pickled_map_carries_its_path_and_not_its_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", PHOTOS)
    pickled = pickle.dumps(open_source(tmp_path / "train.npy"))
    assert len(pickled) < PHOTOS.nbytes / 10
    np.testing.assert_array_equal(pixels(pickle.loads(pickled), 1), PHOTOS[1])


def test_an_array_in_memory_in_any_layout() -> None:
    source = ArraySource(np.asfortranarray(PHOTOS)[::-1])
    assert names(source) == ["array[0]", "array[1]", "array[2]"]
    np.testing.assert_array_equal(pixels(pickle.loads(pickle.dumps(source)), 0), PHOTOS[2])
    with pytest.raises(ImageError, match="expected uint8"):
        ArraySource(PHOTOS / 255)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (PHOTOS / 255, r"float64; expected uint8"),
        (PHOTOS.transpose(0, 3, 1, 2), "channels first"),
        (PHOTOS[..., 0], "if it is 3 grey ones"),
        (np.array([{"a": 1}]), "cannot be read as a NumPy array .*objects"),
        (PHOTOS[:0], "the array holds no images"),
    ],
)
def test_other_arrays_are_explained(tmp_path: Path, array: np.ndarray[Any, Any], match: str) -> None:
    np.save(tmp_path / "train.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=match) as caught:
        open_source(tmp_path / "train.npy")
    assert "train.npy" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 40, 5000])
def test_a_cut_file_is_explained(tmp_path: Path, keep: int) -> None:
    np.save(tmp_path / "whole.npy", PHOTOS)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut\.npy cannot be read as a NumPy array"):
        open_source(tmp_path / "cut.npy")
