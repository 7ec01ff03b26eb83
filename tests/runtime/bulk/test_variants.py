"""Several variants of each image: all of them or none, together, and the same however often a run was killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import coda_runtime
from coda_runtime import InputError
from coda_runtime.bulk import TokenFolder, shards, tokenize
from coda_runtime.cli import app
from coda_runtime.images.variants import Variants
from tests.runtime import tiny
from tests.runtime.bulk.conftest import save_images
from tests.runtime.bulk.local_pipeline import Here, killed_at, without_ray
from tests.runtime.bulk.test_killed import run_and_kill
from tests.runtime.bulk.test_ray import PATIENCE

IMAGES, BROKEN = 9, ("g0/004b.png", "g2/last.png")
FOUR = Variants("random:4", flip=True)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_images(folder, IMAGES)
    for name in BROKEN:
        (folder / name).write_bytes(b"no picture")
    return folder


def in_process(bundle: Path, folder: Path, variants: Variants) -> Rows:
    """The rows of a folder's readable images, by the runtime in this process."""
    out: Rows = []
    with coda_runtime.load(bundle) as tok:
        for file in sorted(path for path in folder.rglob("*.png") if path.read_bytes()[:4] == b"\x89PNG"):
            key = file.relative_to(folder).as_posix()
            with Image.open(file) as image:
                crops = variants.cut(image.convert("RGB"), tok.spec.image_size, key)
            ids = tok.encode(np.stack([crop.pixels for crop in crops]))
            for number, crop in enumerate(crops):
                box = np.asarray(crop.box, np.float32).tolist()
                about = {"path": key, "ids": ids[number].tolist(), "variant": number, "box": box, "flip": crop.flip}
                out.append(about)
    return out


def rows_of(out: Path) -> Rows:
    """All rows of the finished shards, in order; each row group holds whole images."""
    tables = []
    for path in sorted(out.glob("*.parquet")):
        file = pq.ParquetFile(path)
        tables.append(file.read())
        for group in range(file.num_row_groups):
            variants = file.read_row_group(group, ["variant"]).column(0).to_pylist()
            count = max(variants, default=0) + 1
            assert variants == list(range(count)) * (len(variants) // count)
    rows: Rows = pa.concat_tables(tables).to_pylist()
    return rows


def test_rows(sealed: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are those of the crops, whatever else is asked for; row groups of 20 would cut the third image of eight."""
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 20)
    with without_ray():
        done = tokenize(
            sealed, images, tmp_path / "out", shard_size=5, variants=FOUR, label="folder", original_size=True
        )
    assert (done.images, done.errors, done.variants, done.computed) == (IMAGES, 2, 8, IMAGES + 2)
    assert done.tokens == IMAGES * 8 * tiny.TOKENS
    wanted = in_process(sealed, images, FOUR)
    assert [{name: row[name] for name in wanted[0]} for row in rows_of(tmp_path / "out")] == wanted
    assert {pq.ParquetFile(path).metadata.row_group(0).num_rows for path in (tmp_path / "out").glob("*0.parquet")} == {
        16
    }
    folder = TokenFolder(tmp_path / "out")
    folder.verify()
    assert (len(folder), folder.variants) == (IMAGES * 8, 8)
    assert folder.columns == ("path", "ids", "variant", "box", "flip", "label", "width", "height")
    assert [row["ids"].tolist() for row in folder] == [row["ids"] for row in wanted]
    assert [row["label"] for row in folder] == [row["path"].split("/")[0] for row in wanted]
    assert {(row["width"], row["height"]) for row in folder} == {(60, 40)}
    assert repr(folder).endswith(f"{IMAGES} images, 8 variants each, {tiny.TOKENS} tokens each>")
    manifest = folder.manifest
    assert (manifest["format_version"], manifest["images"], manifest["variants"]) == (2, IMAGES, 8)
    assert manifest["augmentation"] == {"crops": "random:4", "flip": True, "zoom": [1.0, 1.25], "seed": 0}
    assert [shard["images"] + shard["errors"] for shard in manifest["shards"]] == [5, 5, 1]
    assert [json.loads(line)["path"] for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()] == list(
        BROKEN
    )


@settings(max_examples=8)
@given(
    shard_size=st.integers(1, 12),
    chunk=st.integers(1, 5),
    kills=st.lists(st.integers(0, 12), max_size=5),
    seed=st.integers(0, 99),
)
def test_killed_anywhere(
    sealed: Path,
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
    shard_size: int,
    chunk: int,
    kills: list[int],
    seed: int,
) -> None:
    """Each run dies at its n-th write or result; the last does not, and the rows are those of one that never died."""
    out = tmp_path_factory.mktemp("run") / "out"
    for number, kill in enumerate([*kills, None]):
        with without_ray(Here(seed + number, twice=True)), killed_at(kill, out) as step:
            tokenize(sealed, images, out, shard_size=shard_size, chunk=chunk, variants=FOUR, report=step)
    assert rows_of(out) == in_process(sealed, images, FOUR)
    TokenFolder(out).verify()


def test_another_choice_is_another_run(sealed: Path, images: Path, tmp_path: Path) -> None:
    with without_ray():
        tokenize(sealed, images, tmp_path / "out", variants=FOUR)
        for other in (None, Variants("random:4"), Variants("random:4", flip=True, seed=1)):
            with pytest.raises(InputError, match=r"was started with other settings: variants \("):
                tokenize(sealed, images, tmp_path / "out", variants=other)
        with pytest.raises(InputError, match=r"variants of each image take .* MiB, and 128 are the most"):
            tokenize(sealed, images, tmp_path / "other", variants=Variants("random:999999"))


def test_the_command(sealed: Path, images: Path, tmp_path: Path) -> None:
    def coda(name: str, *options: str) -> str:
        command = ["tokenize", str(sealed), str(images), "--out", str(tmp_path / name), *options]
        with without_ray():
            done = CliRunner().invoke(app.cli, command)
        return f"{done.exit_code} {done.output}"

    for name, options, variants in [
        ("flip", ["--flip"], Variants(flip=True)),
        ("center", ["--crops", "center"], Variants()),
        ("ten", ["--crops", "ten", "--zoom", "1.05,1.1"], Variants("ten", zoom=(1.05, 1.1))),
        ("random", ["--crops", "random:2", "--crop-seed", "7"], Variants("random:2", seed=7)),
    ]:
        told = coda(name, *options)
        several = f", {variants.count} variants each," if variants.count > 1 else ""
        assert f"{IMAGES} images{several} in 1 shard" in told, told
        assert "2 could not be read, see errors.jsonl" in told
        assert TokenFolder(tmp_path / name).manifest["augmentation"] == variants.to_json()
    assert rows_of(tmp_path / "ten") == in_process(sealed, images, Variants("ten", zoom=(1.05, 1.1)))
    plain = coda("plain")
    assert f"{IMAGES} images in 1 shard" in plain
    center = {row["path"]: row["ids"] for row in rows_of(tmp_path / "center")}
    assert center == {row["path"]: row["ids"].tolist() for row in TokenFolder(tmp_path / "plain")}
    assert coda("none", "--zoom", "big").startswith("2 ")
    wrong = coda("none", "--crops", "ten", "--flip")
    assert wrong == '1 error: crops "ten" has the mirror images already; leave out flip\n'
    assert not (tmp_path / "none").exists()


def killed_often(sealed: Path, tmp_path: Path, kills: int, count: int) -> None:
    """Run the command with a Ray of its own, kill it as often after a new shard, and let it end at last."""
    images, out = tmp_path / "pictures", tmp_path / "out"
    save_images(images, count, scale=8)
    (images / "g0" / "none.png").write_bytes(b"no picture")
    command = [sys.executable, "-W", "error", "-m", "coda_runtime.cli", "tokenize", str(sealed), str(images)]
    command += ["--out", str(out), "--shard-size", "4", "--crops", "random:4", "--flip"]
    draw = random.Random(kills)
    for _ in range(kills):
        if not run_and_kill(command, out, draw.randint(1, 3), draw.uniform(0, 0.3)):
            break  # a busy machine let it end
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, json.loads(done.stdout)["images"], json.loads(done.stdout)["errors"]) == (0, count, 1)
    assert rows_of(out) == in_process(sealed, images, FOUR)
    TokenFolder(out).verify()


@pytest.mark.slow
def test_killed_five_times(sealed: Path, tmp_path: Path) -> None:
    killed_often(sealed, tmp_path, 5, 96)
