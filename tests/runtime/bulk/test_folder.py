"""TokenFolder: rows by number, and folders that are not what they should be."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coda_runtime import OutputError, TokenError
from coda_runtime.bulk import TokenFolder, run, shards
from tests.runtime import tiny
from tests.runtime.bulk.conftest import expected, save_images
from tests.runtime.bulk.local_pipeline import without_ray

Made = tuple[Path, dict[str, list[int]]]


@pytest.fixture(scope="module")
def made(sealed: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A folder of 13 rows, in shards of 5 with row groups of 2, and {key: ids}."""
    base = tmp_path_factory.mktemp("folder")
    save_images(base / "pictures", 13)
    with pytest.MonkeyPatch.context() as patch, without_ray():
        patch.setattr(shards, "ROWS_PER_GROUP", 2)
        run.tokenize(sealed, base / "pictures", base / "out", shard_size=5)
    return base / "out", expected(sealed, base / "pictures")


def test_rows(made: Made) -> None:
    where, ids = made
    folder = TokenFolder(where)
    assert (len(folder), folder.columns, folder.spec) == (13, ("path", "ids"), tiny.SPEC)
    keys = sorted(ids)
    for index in [*np.random.default_rng(0).permutation(13).tolist(), -1, -13]:
        row = folder[index]
        assert row["path"] == keys[index]
        assert row["ids"].dtype == np.int32
        assert row["ids"].tolist() == ids[keys[index]]
        assert not row["ids"].flags.writeable
    for index in (13, -14):
        with pytest.raises(IndexError, match=rf"there is no row {index}; .* has 13"):
            folder[index]
    with pytest.raises(TypeError, match="slice"):
        folder[0:2]
    assert repr(folder) == f"<coda_runtime.bulk.TokenFolder {where}: 13 images, {tiny.TOKENS} tokens each>"
    assert [row["path"] for row in pickle.loads(pickle.dumps(folder))] == keys
    folder.verify()


def test_what_is_not_there_is_distinguished_from_what_is_not_finished(made: Made, tmp_path: Path) -> None:
    for where in (tmp_path / "nope", tmp_path):
        with pytest.raises(OutputError, match="does not exist or is empty"):
            TokenFolder(where)
    shutil.copy(made[0] / "plan.arrow", tmp_path)
    with pytest.raises(OutputError, match="its run is not finished"):
        TokenFolder(tmp_path)


def test_an_altered_shard(made: Made, tmp_path: Path) -> None:
    where = shutil.copytree(made[0], tmp_path / "out")
    shard = where / "shard-00001.parquet"
    table = pq.read_table(shard)
    rows = table.column("ids").to_pylist()
    rows[2][7] = (rows[2][7] + 1) % tiny.CODES
    pq.write_table(table.set_column(1, "ids", pa.array(rows, pa.list_(pa.int32()))), shard, row_group_size=2)
    with pytest.raises(OutputError, match=r"shard-00001\.parquet is not the file that manifest\.json describes"):
        TokenFolder(where).verify()
    rows[2][7] = tiny.CODES
    pq.write_table(table.set_column(1, "ids", pa.array(rows, pa.list_(pa.int32()))), shard, row_group_size=2)
    with pytest.raises(TokenError, match="expected 21 in each row, from 0 to 15"):
        TokenFolder(where)[7]
    pq.write_table(table.slice(0, 3), shard, row_group_size=2)
    for row in (8, 9):
        with pytest.raises(OutputError, match=r"shard-00001\.parquet is missing or damaged \("):
            TokenFolder(where)[row]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(OutputError, match=r"shard-00001\.parquet is missing or damaged"):
        TokenFolder(where)[7]


def test_a_manifest_that_cannot_be_used(made: Made, tmp_path: Path) -> None:
    where = shutil.copytree(made[0], tmp_path / "out")
    path = where / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 3}))
    with pytest.raises(OutputError, match="has format version 3, of a newer coda; upgrade"):
        TokenFolder(where)
    without = [{key: value for key, value in content.items() if key != name} for name in ("spec", "columns")]
    shard = {**content["shards"][0], "images": -1}
    wrong = [{"variants": 0}, {"rows_per_group": 0}, {"columns": ["path"]}, {"shards": [shard]}]
    for damaged in [*without, *({**content, **change} for change in wrong)]:
        path.write_text(json.dumps(damaged))
        with pytest.raises(OutputError, match="is not what `coda tokenize` writes"):
            TokenFolder(where)


def test_reading_needs_no_ray(made: Made) -> None:
    code = "import sys, coda_runtime.bulk as b; print(len(list(b.TokenFolder(sys.argv[1]))), 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(made[0])], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("13 False\n", "")
