from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends.ptx import SearchTables
from coda_runtime.errors import ArtifactError
from coda_runtime.format.spec import Spec

SPEC = Spec("test", 32, 8, 3, 5, (1, 4), 17)
TABLE = np.arange(20, dtype=np.float32).reshape(5, 4)
WIDE = np.arange(25, dtype=np.float32).reshape(5, 5)
SPREAD = np.ones((4, 6), np.float32)
EPS = np.float64(1e-5)


@pytest.mark.parametrize("tables", [SearchTables(TABLE), SearchTables(WIDE, SPREAD, 1e-5)], ids=["plain", "layer norm"])
def test_what_is_saved_is_loaded(tables: SearchTables, tmp_path: Path) -> None:
    for name in ("search.fp32.npz", "no suffix"):
        tables.save(tmp_path / name)
        loaded = SearchTables.load(tmp_path / name, SPEC)
        np.testing.assert_array_equal(loaded.table, tables.table)
        assert (loaded.spread is None) == (tables.spread is None)
        assert loaded.eps == tables.eps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no suffix", "search.fp32.npz"]
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "holds nothing"),
        ({"other": TABLE}, "holds other; expected table"),
        ({"table": TABLE, "spread": SPREAD}, "expected table, or table, spread and eps"),
        ({"table": TABLE[:4]}, r"table float32 \[4, 4\]; expected float32 \[5, 4\]"),
        ({"table": WIDE}, r"expected float32 \[5, 4\]"),
        ({"table": TABLE.astype(np.float64)}, r"table float64"),
        ({"table": np.full_like(TABLE, np.nan)}, "NaN or infinity in table"),
        ({"table": TABLE, "spread": SPREAD, "eps": EPS}, r"expected float32 \[5, 5\]"),
        ({"table": WIDE, "spread": SPREAD[:3], "eps": EPS}, r"expected float32 \[4, 6\]"),
        ({"table": WIDE, "spread": SPREAD[:, :0], "eps": EPS}, "spread float32"),
        ({"table": WIDE, "spread": SPREAD[0], "eps": EPS}, "spread float32"),
        ({"table": WIDE, "spread": SPREAD, "eps": np.float64(-1)}, "0 or more"),
        ({"table": WIDE, "spread": SPREAD, "eps": np.float64(np.nan)}, "0 or more"),
        ({"table": WIDE, "spread": SPREAD, "eps": np.ones(2)}, "0 or more"),
        ({"table": np.array([{}], object)}, "not a readable"),
    ],
)
def test_another_archive_is_rejected(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "search.fp32.npz"
    np.savez(path, **arrays)
    with pytest.raises(ArtifactError, match=words) as caught:
        SearchTables.load(path, SPEC)
    assert str(path) in str(caught.value)
    assert "export the bundle again" in str(caught.value)


def test_another_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "search.fp32.npz"
    with pytest.raises(ArtifactError, match="not a readable"):
        SearchTables.load(path, SPEC)
    np.save(tmp_path / "array.npy", TABLE)
    SearchTables(TABLE).save(path)
    whole = path.read_bytes()
    for data in (b"", b"PK", whole[:100], whole[:-10], (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="not a readable"):
            SearchTables.load(path, SPEC)
