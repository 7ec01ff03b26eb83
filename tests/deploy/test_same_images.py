"""A folder holds the same images for every command: encoding, bulk tokens, training, and measuring parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coda_deploy.data import open_source as open_training
from coda_deploy.export import parity_images
from coda_runtime.bulk.sources import SourceOptions
from coda_runtime.bulk.sources import open_source as open_bulk
from coda_runtime.cli.sources import collect
from tests.tiny_tokenizers import images

NAMES = ["album/2.png", "album/deep/3.png", "one.png", "shared/4.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, one of them behind a linked folder, and what macOS and links leave beside them."""
    root = tmp_path / "photos"
    places = [*(root / name for name in NAMES[:3]), tmp_path / "nas" / "4.png"]
    for path, picture in zip(places, images(4, 32).numpy(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (root / "shared").symlink_to(tmp_path / "nas")
    (root / "again").symlink_to(root / "album")
    (root / "album" / "loop").symlink_to(root)
    (root / "._one.png").write_bytes(b"\0\x05\x16\x07 AppleDouble")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "one.png").write_bytes(places[0].read_bytes())
    return root


def test_encode_reconstruct_and_bench(folder: Path) -> None:
    assert [source.name for source in collect([folder])] == NAMES


def test_tokenize(folder: Path) -> None:
    assert open_bulk(str(folder), SourceOptions()).listing().column("path").to_pylist() == NAMES


def test_train_and_eval(folder: Path) -> None:
    source = open_training(folder)
    assert [source.name(index) for index in range(len(source))] == [str(folder / name) for name in NAMES]


def test_export_measures_parity_on_them(folder: Path) -> None:
    found = parity_images(32, folder)
    assert found.source == "4 of 4 images of the user's"
    np.testing.assert_array_equal(found.pixels, images(4, 32).numpy())
