"""Tokens that earlier versions wrote: folders of `coda tokenize`, finished and not, and files of `coda encode`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coda_deploy.tokens import TokenDataset
from coda_runtime.bulk import TokenFolder, tokenize
from tests.compatibility.versions import (
    BROKEN,
    SHARD_SIZE,
    TOKENIZE,
    expected,
    pictures_at_source,
    readable,
    same_images,
)
from tests.deploy.cli.command import coda
from tests.runtime.bulk.local_pipeline import without_ray


def goes_on(written: Path, out: Path) -> Any:
    with pictures_at_source(written) as source, without_ray():
        return tokenize(written / "bundle", source, out, device="cpu", **TOKENIZE)


def rows(folder: Path) -> dict[str, Any]:
    return {row["path"]: row["ids"].tolist() for row in TokenFolder(folder)}


def test_a_finished_folder(written: Path) -> None:
    folder, data, ids = TokenFolder(written / "tokens"), TokenDataset(written / "tokens"), expected(written)["ids"]
    folder.verify()
    assert folder.columns == ("path", "ids", "label", "width", "height")
    assert len(folder) == len(data) == len(ids)
    for number, path in enumerate(readable(written)):
        with Image.open(path) as image:
            size = image.size
        row = folder[number]
        assert row.pop("ids").tolist() == data[number]["ids"].tolist() == ids[number].tolist()
        name = path.relative_to(written / "pictures")
        assert row == {"path": name.as_posix(), "label": name.parent.name, "width": size[0], "height": size[1]}
        assert data[number]["label"] == name.parent.name


def test_a_finished_run_has_nothing_left_to_do(written: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(written / "tokens", tmp_path / "tokens"))
    done = goes_on(written, out)
    assert (done.images, done.errors, done.computed) == (len(expected(written)["ids"]), 1, 0)
    assert (out / "manifest.json").read_bytes() == (written / "tokens" / "manifest.json").read_bytes()


@pytest.mark.numeric
def test_a_run_that_was_stopped_goes_on(written: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(written / "unfinished", tmp_path / "tokens"))
    (kept,) = out.glob("*.parquet")
    before = kept.stat().st_mtime_ns
    done = goes_on(written, out)
    assert (done.images, done.errors, done.computed) == (6, 1, 7 - SHARD_SIZE)
    assert kept.stat().st_mtime_ns == before
    assert rows(out) == rows(written / "tokens")
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert error["path"] == BROKEN


@pytest.mark.numeric
def test_a_file_of_coda_encode(written: Path, tmp_path: Path) -> None:
    result = coda("decode", written / "bundle", written / "tokens.npz", "--out", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    second = [number for number, path in enumerate(readable(written)) if path.parent.name == "second"]
    assert len(second) == 3
    found = sorted((tmp_path / "out").iterdir())
    assert [path.stem for path in found] == [readable(written)[number].stem for number in second]
    pictures = [np.asarray(Image.open(path)) for path in found]
    same_images(np.stack(pictures), expected(written)["decoded"][second])
