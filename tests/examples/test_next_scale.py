"""examples/next_scale: tokens are usable: a model trained on them knows more than how often each code occurs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_crops_to_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = tiny.make_bundle(tmp_path / "bundle")
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(tiny.photos(4, 90, 120)):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{number}.png")
    call("crops.py", tmp_path / "photos", tmp_path / "crops", "--count", 120, "--side", 32)
    # Without Ray, whose start takes longer than the training; the files are the same.
    with without_ray():
        tokenize(bundle, tmp_path / "crops", tmp_path / "tokens", shard_size=50)
    size = ["--steps", 80, "--batch", 16, "--width", 32, "--across", 2]
    losses = json.loads(call("train.py", bundle, tmp_path / "tokens", "--out", tmp_path / "made.png", *size))
    assert losses["loss"] < losses["frequencies"] - 0.3
    with Image.open(tmp_path / "made.png") as made:
        assert made.size == (64, 64)
        assert len(np.unique(np.asarray(made).reshape(-1, 3), axis=0)) > 8
