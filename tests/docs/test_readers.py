"""What docs/tokens.md says of other programs: each line reads a folder of tokens as `coda tokenize` wrote it.

pandas and `datasets` come with the extra `dev`, for other reasons. DuckDB, polars and torchdata are nothing but readers
here, 100 MB that no other test needs, so the slow test downloads them into a folder of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import token_folder
from benchmarks.bench_tokens import SPEC
from tests.docs.pages import ROOT, python

PAGE = ROOT / "docs" / "tokens.md"
IMAGES = 8
BLOCKS = [block.text for block in python(PAGE)]
LINES = {
    line.partition(".")[0]: line
    for block in BLOCKS
    if "import duckdb" in block
    for line in block.splitlines()[1:]
    if line
}


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """The ids of the folder `tokens` in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows: np.ndarray[tuple[int, int], np.dtype[np.int32]] = token_folder.write(
        tmp_path / "tokens", SPEC, IMAGES, shard_size=5, label=lambda number: number
    )[:, 0]
    (tmp_path / "tokens" / "errors.jsonl").touch()
    return rows


def test_pandas(ids: np.ndarray[tuple[int, int], np.dtype[np.int32]]) -> None:
    import glob

    import pandas

    found = eval(LINES["pandas"], {"pandas": pandas, "glob": glob})
    np.testing.assert_array_equal(np.stack(found), ids)


def test_datasets(ids: np.ndarray[tuple[int, int], np.dtype[np.int32]], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="coda-deploy[train] is not installed")
    call, _, rest = LINES["datasets"].partition('split="train"')
    found = eval(f'{call}split="train", cache_dir={str(tmp_path / "cache")!r}{rest}', {"datasets": datasets})
    np.testing.assert_array_equal(found, ids[0])


_SLOW = """
import json
import numpy as np
import duckdb, polars
found = {duckdb}
assert [first for _, first in sorted(found)] == json.loads({first!r})
assert {polars}.to_numpy().sum() == {total}
"""
_STATEFUL = """
{block}
rest = [label for batch in loader for label in batch["label"].tolist()]
first = batch["label"].tolist()
assert sorted(first + rest) == list(range({images})), (first, rest)
"""


@pytest.mark.slow
def test_what_is_downloaded(ids: np.ndarray[tuple[int, int], np.dtype[np.int32]], tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    wanted = ["duckdb", "polars", "polars-runtime-32", "torchdata"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *wanted]
    subprocess.run(install, check=True, timeout=600)
    stateful = next(block for block in BLOCKS if "torchdata" in block)
    for code in (
        _SLOW.format(
            duckdb=LINES["duckdb"], polars=LINES["polars"], first=str(ids[:, 0].tolist()), total=int(ids.sum())
        ),
        _STATEFUL.format(block=stateful, images=IMAGES),
    ):
        environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{packages}"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
