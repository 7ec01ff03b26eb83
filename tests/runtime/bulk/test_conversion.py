"""`coda tokens convert`: every row once, in the forms that others read, whole or not at all."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import token_folder
from coda_runtime import InputError, OutputError
from coda_runtime.bulk import MappedTokens, convert, shards
from coda_runtime.cli import app
from coda_runtime.images.variants import Variants
from tests.runtime import tiny

IMAGES = 11
LABELS = {"number": lambda number: 2**40 + number, "text": lambda number: None if number == 3 else f"c{number % 2}"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray[Any, Any]]:
    """A folder of 22 rows in shards of 4 images and row groups of 2 rows, with text labels."""
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 2)
    where = tmp_path / "tokens"
    flip = Variants(flip=True)
    return where, token_folder.write(where, tiny.SPEC, IMAGES, shard_size=4, variants=flip, label=LABELS["text"])


@pytest.mark.parametrize("kind", ["number", "text", None])
@pytest.mark.parametrize("dtype", ["int32", "uint16"])
def test_npy(tmp_path: Path, kind: str | None, dtype: str) -> None:
    label = None if kind is None else LABELS[kind]
    ids = token_folder.write(tmp_path / "tokens", tiny.SPEC, IMAGES, shard_size=4, label=label)
    told: list[tuple[int, int]] = []
    rows = convert(tmp_path / "tokens", tmp_path / "out", "npy", dtype=dtype, report=lambda *now: told.append(now))
    assert (rows, told) == (IMAGES, [(4, 11), (8, 11), (11, 11)])
    array = np.load(tmp_path / "out" / "tokens.npy", mmap_mode="r")
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, ids[:, 0])
    mapped = MappedTokens(tmp_path / "out")
    assert mapped.labels(np.arange(IMAGES)) == [label and label(number) for number in range(IMAGES)]
    assert (tmp_path / "out" / "labels.npy").exists() == (label is not None)
    assert pq.read_table(tmp_path / "out" / "rows.parquet").column("path").to_pylist()[-1] == "00000010.png"


def test_webdataset(made: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    where, ids = made
    convert(where, tmp_path / "out", "webdataset", dtype="uint16")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"shard-{n:05d}.tar" for n in range(3)]
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((tmp_path / "out").iterdir()):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                assert suffix not in found.setdefault(key, {})
                found[key][suffix] = file.read()
    assert list(found) == [f"{number:09d}" for number in range(2 * IMAGES)]
    for number, sample in enumerate(found.values()):
        row = np.load(io.BytesIO(sample["ids.npy"]), allow_pickle=False)
        assert row.dtype == np.uint16
        np.testing.assert_array_equal(row, ids[number // 2, number % 2])
        about = json.loads(sample["json"])
        assert (about["path"], about["variant"]) == (f"{number // 2:08d}.png", number % 2)
        label = LABELS["text"](number // 2)
        assert sample.get("cls") == (None if label is None else label.encode())


@pytest.mark.parametrize("form", ["npy", "webdataset"])
def test_a_failure_leaves_nothing(made: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path, form: str) -> None:
    where, _ = made
    manifest = json.loads((where / "manifest.json").read_text())
    manifest["shards"][2]["ids_sha256"] = "0" * 64
    (where / "manifest.json").write_text(json.dumps(manifest))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(OutputError, match=r"shard-00002\.parquet is not the file that manifest\.json describes"):
        convert(where, tmp_path / "out", form)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_command(made: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    where, ids = made
    words = ["tokens", "convert", str(where), "--to", "npy", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app.cli, words)
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'out'}: 22 rows\n")
    np.testing.assert_array_equal(MappedTokens(tmp_path / "out").ids, ids.reshape(-1, tiny.TOKENS))
    again = CliRunner().invoke(app.cli, words)
    assert (again.exit_code, again.output.count("\n")) == (1, 1)
    assert "is not empty; choose another --out, or empty it" in again.output


def test_what_does_not_fit(made: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the form is 'csv'; expected one of npy, webdataset"):
        convert(made[0], tmp_path / "out", "csv")
    with pytest.raises(InputError, match="dtype is 'int8'"):
        convert(made[0], tmp_path / "out", "npy", dtype="int8")
