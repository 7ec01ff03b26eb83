"""The order of an epoch: each image once, the same again, whatever is skipped; from Parquet and from one array."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import token_folder
from coda_runtime import InputError, OutputError
from coda_runtime.bulk import MappedTokens, TokenFolder, convert, shards
from coda_runtime.bulk.stream import Order, open_tokens
from coda_runtime.images.variants import Variants
from tests.runtime import tiny

IMAGES = 23
Made = dict[str, tuple[TokenFolder | MappedTokens, np.ndarray[Any, Any]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folders of one and of three variants, in shards of 9 and blocks of 4 rows or 3, as Parquet and as an array."""
    base = tmp_path_factory.mktemp("tokens")
    out: Made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS_PER_GROUP", 4)
        patch.setattr("coda_runtime.bulk.mapped._BLOCK", 4)
        for name, variants in (("one", None), ("three", Variants("random:3"))):
            ids = token_folder.write(
                base / name, tiny.SPEC, IMAGES, shard_size=9, variants=variants, label=lambda number: number * 10
            )
            convert(base / name, base / f"{name}.npy", "npy")
            out[name] = TokenFolder(base / name), ids
            out[f"{name}.npy"] = MappedTokens(base / f"{name}.npy"), ids
    return out


def read(order: Order, skip: int = 0) -> list[tuple[tuple[int, ...], Any]]:
    out = []
    for piece in order.pieces(skip):
        assert piece.labels is not None
        out += [(tuple(row), label) for row, label in zip(piece.ids.tolist(), piece.labels, strict=True)]
    return out


@given(
    name=st.sampled_from(["one", "one.npy", "three", "three.npy"]),
    epoch=st.integers(0, 3),
    parts=st.integers(1, 5),
    window=st.integers(1, 30),
    shuffle=st.booleans(),
    even=st.booleans(),
    data=st.data(),
)
def test_each_image_once(
    made: Made, name: str, epoch: int, parts: int, window: int, shuffle: bool, even: bool, data: st.DataObject
) -> None:
    folder, ids = made[name]
    orders = [Order(folder, epoch, part, parts, 5, shuffle, even, window) for part in range(parts)]
    rows = [read(order) for order in orders]
    assert [len(part) for part in rows] == [len(order) for order in orders]
    seen = Counter(label for part in rows for _, label in part)
    assert set(seen.values()) == {1}
    assert len(seen) == (IMAGES - IMAGES % parts if even else IMAGES)
    if even:
        assert len({len(part) for part in rows}) == 1
    known = {number * 10: [tuple(row) for row in ids[number].tolist()] for number in range(IMAGES)}
    assert all(row in known[label] for part in rows for row, label in part)
    if not shuffle:
        expected = [(known[number * 10][0], number * 10) for number in range(len(seen))]
        assert [row for part in rows for row in part] == expected
    skip = data.draw(st.integers(0, len(rows[0])))
    assert read(orders[0], skip) == rows[0][skip:]


def test_epochs_differ_and_repeat(made: Made) -> None:
    folder, ids = made["three"]
    orders = [read(Order(folder, epoch, seed=seed)) for epoch, seed in [(0, 0), (1, 0), (0, 1)]]
    assert len({tuple(label for _, label in order) for order in orders}) == 3
    assert read(Order(folder, 0)) == orders[0]
    # Of three variants each is drawn sometimes.
    first = [tuple(row) for row in ids[0].tolist()]
    drawn = {first.index(next(row for row, label in read(Order(folder, n)) if label == 0)) for n in range(20)}
    assert drawn == {0, 1, 2}


def test_what_does_not_fit(made: Made) -> None:
    folder = made["one"][0]
    with pytest.raises(InputError, match="part is 2 of 2"):
        Order(folder, part=2, parts=2)
    with pytest.raises(InputError, match="window is 0"):
        Order(folder, window=0)
    with pytest.raises(InputError, match="99 images to skip, and there are 23"):
        list(Order(folder).pieces(99))


def test_mapped(made: Made, tmp_path: Path) -> None:
    folder, ids = made["three.npy"]
    assert isinstance(folder, MappedTokens)
    assert (len(folder), folder.variants, folder.columns, folder.spec) == (IMAGES * 3, 3, ("ids", "label"), tiny.SPEC)
    assert isinstance(folder.ids.base, np.memmap)
    for again in (folder, pickle.loads(pickle.dumps(folder)), folder.reopened()):
        assert [again[number]["label"] for number in (0, 3, -1)] == [0, 10, 220]
        np.testing.assert_array_equal(again.take(np.array([4, 0])), [ids[1, 1], ids[0, 0]])
        assert again[-1]["ids"].dtype == np.int32
    with pytest.raises(IndexError, match="there is no row 69"):
        folder[IMAGES * 3]
    assert isinstance(open_tokens(folder._where), MappedTokens)
    (tmp_path / "tokens.json").write_text('{"format_version": 2}')
    with pytest.raises(OutputError, match="has format version 2, of a newer coda"):
        MappedTokens(tmp_path)
    (tmp_path / "tokens.json").write_text("{}")
    with pytest.raises(OutputError, match="is not what `coda tokens convert --to npy` writes"):
        MappedTokens(tmp_path)


def test_a_mapped_folder_that_is_damaged(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token_folder.write(tmp_path / "tokens", tiny.SPEC, 5, label=lambda number: f"n{number % 2}")
    convert(tmp_path / "tokens", tmp_path / "whole", "npy")
    monkeypatch.chdir(tmp_path)
    mapped = MappedTokens("whole")
    monkeypatch.chdir(tmp_path.parent)
    assert pickle.loads(pickle.dumps(mapped))[1]["label"] == mapped.reopened()[1]["label"] == "n1"

    def damaged(name: str, change: Any) -> MappedTokens:
        other = Path(shutil.copytree(tmp_path / "whole", tmp_path / "other", dirs_exist_ok=True))
        (other / name).write_bytes(change((other / name).read_bytes()))
        return MappedTokens(other)

    for name in ("tokens.npy", "labels.npy"):
        for change in (
            lambda data: b"",
            lambda data: data[:-1],
            lambda data: data[:60],
            lambda data: b"PK\x03\x04" + data,
            lambda data: data.replace(b"{", b"(", 1),
        ):
            with pytest.raises(OutputError, match=f"other is not what .* writes .*{name}.*; run it again"):
                damaged(name, change)
    content = json.loads((tmp_path / "whole" / "tokens.json").read_text())
    for wrong in ({"variants": 0}, {"variants": -1}, {"label_names": 3}):
        text = json.dumps({**content, **wrong}).encode()
        with pytest.raises(OutputError, match="is not what `coda tokens convert --to npy` writes"):
            damaged("tokens.json", lambda data, text=text: text)
    (tmp_path / "other" / "tokens.json").write_text(json.dumps(content))
    for label in (-1, 2):
        folder = damaged("labels.npy", lambda data, label=label: data[:-8] + np.int64(label).tobytes())
        assert folder[0]["label"] == "n0"
        with pytest.raises(OutputError, match=rf"labels\.npy has the label {label}, and tokens\.json 2 names"):
            folder[-1]
