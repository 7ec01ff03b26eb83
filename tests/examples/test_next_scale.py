"""examples/next_scale: tokens are usable: a model trained on them knows more than how often each code occurs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from coda_runtime.bulk import tokenize
from tests.runtime import tiny
from tests.runtime.bulk.local_pipeline import without_ray

EXAMPLE = Path(__file__).parents[2] / "examples" / "next_scale"


def call(script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLE / script), *map(str, arguments)]
    # So small a model is trained faster by one thread than by several, which wait for each other where others work.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and the tokens of shapes, labelled by their folders."""
    base = tmp_path_factory.mktemp("next-scale")
    bundle = tiny.make_bundle(base / "bundle")
    call("shapes.py", base / "shapes", "--count", 15, "--side", 32)
    # Without Ray, whose start takes longer than the training; the files are the same.
    with pytest.MonkeyPatch.context() as patch, without_ray():
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        tokenize(bundle, base / "shapes", base / "tokens", shard_size=50, label="folder")
    return bundle, base / "tokens"


@pytest.mark.parametrize("kind", ["next-scale", "masked"])
def test_shapes_to_images(made: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    size = ["--steps", 80, "--batch", 16, "--width", 32, "--layers", 2, "--each", 2]
    told = json.loads(call("train.py", *made, "--out", tmp_path / "made", "--kind", kind, *size))
    assert told["loss"] < told["frequencies"] - 0.3
    assert told["frequencies_by_scale"] < told["frequencies"]
    assert 1 < told["codes_of_samples"] <= told["codes_of_training"] <= tiny.CODES
    with Image.open(tmp_path / "made.png") as grid:
        assert grid.size == (2 * 68, 6 * 36), "pairs of images, with a border"
    written = sorted((tmp_path / "made").rglob("*.png"))
    classes = ["cross", "disc", "ring", "square", "stripes", "triangle"]
    assert [path.parent.name for path in written] == [name for name in classes for _ in range(2)]
    assert len({path.read_bytes() for path in written}) >= 6, "of so few codes two may be alike"
