"""Colour profiles of training and evaluation images: told of by name where ignored, converted by on request."""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_deploy.data import Crop, TrainLoader, centre_batches, open_source
from coda_runtime import InputError
from coda_runtime.images import fit, fit_bytes
from tests.deploy.cli.command import coda
from tests.deploy.data.sample_images import encode, photo, write_tar
from tests.runtime.images import icc

DATA = {f"{number}.png": encode(photo(number), icc_profile=icc.rgb() if number else None) for number in range(3)}


@pytest.fixture(params=["folder", "tar", "saved"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    if request.param == "saved":
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_dict({"image": [{"bytes": data, "path": None} for data in DATA.values()]})
        rows.cast_column("image", datasets.Image()).save_to_disk(str(folder))
        return folder
    if request.param == "tar":
        write_tar(tmp_path / "data.tar", DATA)
        return tmp_path / "data.tar"
    folder.mkdir()
    for name, data in DATA.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("color", ["stored", "srgb"])
def test_every_source(where: Path, color: str) -> None:
    source = open_source(where, color=color)
    expected = [fit_bytes(data, 32, name="it", color=color) for data in DATA.values()]
    with closing(centre_batches(source, 32, 2)) as batches:
        found = list(batches)
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in found]), expected)
    names = [source.name(index) for index in (1, 2)] if color == "stored" else []
    assert [name for batch in found for name in batch.profiles_ignored] == names
    loader = TrainLoader(source, Crop(32), batch_size=2)
    with closing(loader.batches()) as batches:
        told = [name for batch in itertools.islice(batches, 6) for name in batch.profiles_ignored]
    assert sorted(told) == names


def test_another_color_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="color is 'p3'"):
        open_source(tmp_path, color="p3")


def test_eval_records_it(tiny_folder: Path, tmp_path: Path) -> None:
    for name, data in DATA.items():
        (tmp_path / name).write_bytes(data)
    quick = ("--skip", "ssim", "--skip", "ms-ssim", "--skip", "vae", "--json")
    found: dict[str, Any] = {}
    for color in ("stored", "srgb"):
        done = coda("eval", tiny_folder, "--data", tmp_path, "--color", color, *quick)
        assert done.exit_code == 0, done.output
        found[color] = json.loads(done.stdout)
        assert found[color]["color"] == color
    assert [found[color]["num_profiles_ignored"] for color in found] == [2, 0]
    assert found["stored"]["psnr"] != found["srgb"]["psnr"]
    (warning,) = found["stored"]["warnings"]
    assert warning.startswith("2 images have a colour profile other than sRGB")
    assert found["srgb"]["warnings"] == []
    told = coda("eval", tiny_folder, "--data", tmp_path, *quick[:-1]).stderr
    assert told.count("2 images have a colour profile other than sRGB") == 1


def test_train_takes_it_into_its_configuration() -> None:
    assert 'color = "srgb"' in coda("train", "--config", "sample", "--color", "srgb", "--show-config").stdout
    assert 'color = "stored"' in coda("train-vae", "--show-config").stdout
    done = coda("train-vae", "--set", "data.color=p3", "--show-config")
    assert "data.color is 'p3', expected one of stored, srgb" in done.stderr


def test_fit_takes_a_converted_image_as_it_is(where: Path) -> None:
    source = open_source(where, color="srgb")
    np.testing.assert_array_equal(fit(source.image(1), 32, color="srgb"), fit(source.image(1), 32))
