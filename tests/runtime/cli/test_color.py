"""`--color`: one warning a command that counts the profiles that were ignored, and a record of what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import coda_runtime
from coda_runtime.bench.results import Results
from coda_runtime.cli import app
from coda_runtime.codes.tokens_file import read_tokens
from tests.runtime import measurable, tiny
from tests.runtime.images import icc

WARNING = "warning: 2 images have a colour profile other than sRGB"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, two of them with a profile."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(tiny.photos(3, 40, 60)):
        Image.fromarray(image).save(folder / f"{number}.png", icc_profile=icc.rgb() if number else None)
    return folder


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app.cli, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_encode(sealed: Path, photos: Path, tmp_path: Path) -> None:
    out = {name: tmp_path / f"{name}.npz" for name in ("stored", "srgb")}
    done = run("encode", sealed, photos, "--out", out["stored"])
    (line,) = done.stderr.splitlines()
    assert line.startswith(WARNING)
    assert "--color srgb" in line
    assert run("encode", sealed, photos, "--color", "srgb", "--out", out["srgb"]).stderr == ""
    files = sorted(photos.iterdir())
    for name, path in out.items():
        with np.load(path) as data, coda_runtime.load(sealed, color="srgb") as tok:
            assert str(data["color"]) == name
            assert (name == "srgb") == np.array_equal(data["ids"], tok.encode(files))
            assert read_tokens(path, tok).known
    report = json.loads(run("encode", sealed, photos, "--json", "--force", "--out", out["stored"]).stdout)
    assert (report["color"], report["num_profiles_ignored"]) == ("stored", 2)


def test_a_broken_profile_is_told_and_left_out_on_request(sealed: Path, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(tiny.photos(1)[0]).save(photos / "9.png", icc_profile=b"broken")
    given = ["encode", sealed, photos, "--color", "srgb", "--out", tmp_path / "it.npz"]
    assert "9.png' has a colour profile that cannot be used" in run(*given, code=1).stderr
    assert "skipped 9.png: " in run(*given, "--skip-bad").stderr


def test_reconstruct(sealed: Path, photos: Path, tmp_path: Path) -> None:
    done = run("reconstruct", sealed, photos, "--json", "--out", tmp_path / "a")
    assert done.stderr.startswith(WARNING)
    told = json.loads(done.stdout)
    assert (told["color"], told["num_profiles_ignored"]) == ("stored", 2)
    done = run("reconstruct", sealed, photos, "--json", "--color", "srgb", "--out", tmp_path / "b")
    assert (json.loads(done.stdout)["color"], done.stderr) == ("srgb", "")


def test_bench(photos: Path, tmp_path: Path) -> None:
    bundle = measurable.make(tmp_path / "bundle")
    measured = ("--operation", "encode", "--batch", "1", "--seconds", "0.02", "--repeat-process", "1")
    here = ("--device", "cpu", "--threads", "1", "--force")
    for more, color in ((), "stored"), (("--color", "srgb"), "srgb"):
        out = ("--images", photos, "--out", tmp_path / "results.json")
        done = run("bench", "run", bundle, *measured, *here, *out, *more)
        assert (WARNING in done.stderr) == (color == "stored")
        assert Results.load(tmp_path / "results.json").data["images"]["color"] == color


def test_another_color_is_wrong_usage(sealed: Path, photos: Path, tmp_path: Path) -> None:
    done = run("encode", sealed, photos, "--color", "p3", "--out", tmp_path / "it.npz", code=2)
    assert "'p3' is not one of 'stored', 'srgb'" in done.stderr
