"""Parquet files that say more of themselves than they hold, or hold what becomes far more than they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coda_runtime import InputError, OutputError
from coda_runtime.bulk import TokenFolder
from coda_runtime.bulk.parquet_file import ParquetFile
from coda_runtime.bulk.sources import SourceOptions, open_source
from tests.runtime.bulk.test_folder import Made, made  # noqa: F401 - a fixture

MIB = 1 << 20
MANY = 400
ZEROS = bytes(MIB)


def repeated(values: list[Any], rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.arange(rows) % len(values), pa.int32()), pa.array(values))


def save(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    # Without Arrow's own schema, so that a dictionary is only how the file holds it.
    pq.write_table(pa.table(columns), path, store_schema=False, row_group_size=1 << 30, **options)
    return path


def read(path: Path, **options: Any) -> list[Any]:
    source = open_source(str(path), SourceOptions(**options))
    return list(source.reader(source.files()).read(source.listing()))


def number(value: int) -> bytes:
    """A zigzag varint."""
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def page(kind: int, unpacked: int, packed: int, values: int, encoding: int = 0) -> bytes:
    """The header of a page: of data (0), or a dictionary (2)."""
    head = b"\x15" + number(kind) + b"\x15" + number(unpacked) + b"\x15" + number(packed)
    own = b"\x15" + number(values) + b"\x15" + number(encoding) + (b"" if kind else b"\x15\x06\x15\x06") + b"\x00"
    return head + (b"\x4c" if kind else b"\x2c") + own + b"\x00"


def with_first_pages(tmp_path: Path, pages: bytes) -> Path:
    """A file of 20 random images whose column begins with other pages, and ends with one that says nothing."""
    path = save(tmp_path / "a.parquet", {"image": [os.urandom(500)] * 20}, use_dictionary=False, compression="snappy")
    data, size = bytearray(path.read_bytes()), pq.read_metadata(path).row_group(0).column(0).total_compressed_size
    left = size - len(pages)
    nothing = left - len(page(1, left, left, 0))
    pages += page(1, nothing, nothing, 0)
    data[4 : 4 + len(pages)] = pages
    path.write_bytes(data)
    return path


BOMBS: dict[str, Callable[[Path], Path]] = {
    "a dictionary": lambda path: save(path, {"image": repeated([ZEROS], MANY)}, compression="zstd"),
    "a dictionary in a struct": lambda path: save(
        path,
        {"image": pa.StructArray.from_arrays([repeated([ZEROS], MANY), repeated(["a"], MANY)], ["bytes", "path"])},
        compression="zstd",
    ),
    "zeros": lambda path: save(path, {"image": [ZEROS] * MANY}, compression="zstd", use_dictionary=False),
    "shared prefixes": lambda path: save(
        path, {"image": [ZEROS] * MANY}, use_dictionary=False, column_encoding={"image": "DELTA_BYTE_ARRAY"}
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_rejected_before_it_fills_the_memory(tmp_path: Path, name: str) -> None:
    path = BOMBS[name](tmp_path / "a.parquet")
    assert path.stat().st_size < 2 * MIB
    code = """
import sys
from coda_runtime import InputError
from coda_runtime.bulk.sources import SourceOptions, open_source
from coda_runtime.machine.memory import peak_bytes
source = open_source(sys.argv[1], SourceOptions())
rows = source.listing()
try:
    list(source.reader(source.files()).read(rows.slice(0, 2)))
except InputError as error:
    print(error)
assert peak_bytes() < 700 << 20, peak_bytes()
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "a.parquet is not read: row group 0 of 'image' unpacks to" in done.stdout
    assert "limit of 268,435,456 for its size; leave it out, or write it again with fewer rows" in done.stdout


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        (page(0, 2**31 - 1, 99, 20) + bytes(99), "unpacks to 2,14[0-9,]{9} bytes"),
        (
            page(2, 2**31 - 1, 9, 20) + bytes(9) + page(0, 9, 9, 20, 8) + bytes(9),
            "unpacks to 2,14[0-9,]{9} bytes",
        ),
        (
            page(2, 9, 9, 2**31 - 1) + bytes(9) + page(0, 9, 9, 20, 8) + bytes(9),
            "unpacks to 34,3[0-9,]{10} bytes",
        ),
        (page(0, 99, 99, 2**31 - 1) + bytes(99), "unpacks to 34,3[0-9,]{10} bytes"),
        (page(0, 99, 2**31 - 1, 20), r"damaged \(a page is cut\)"),
        (page(0, 99, 99, 20) + bytes(99), "damaged"),
        (b"\x19" * 20, "damaged"),
        (bytes(20), "the header of a page has None as its field 1"),
    ],
    ids=["page", "dictionary", "entries", "values", "packed", "content", "list", "nothing"],
)
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, pages: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(with_first_pages(tmp_path, pages))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_runtime.io.unpacking._FREE", 4 * MIB)


@pytest.mark.usefixtures("small")
def test_labels_and_keys_count_together(tmp_path: Path) -> None:
    """Each row group is within the limit, and all of them are not."""
    columns = {"image": [b"x"] * 200, "label": repeated(["a" * MIB, "b" * MIB], 200)}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, store_schema=False, row_group_size=2, compression="zstd")
    assert read(path) == [b"x"] * 200
    with pytest.raises(InputError, match=r"column 'label' unpacks to [0-9,]+ bytes, more than the limit of [0-9,]+"):
        read(path, label="label")
    with pytest.raises(InputError, match="the column 'label' unpacks to"):
        read(path, key_column="label")


@pytest.mark.usefixtures("small")
def test_a_column_of_another_encoding_is_read_as_it_is(tmp_path: Path) -> None:
    """By few rows at a time where a dictionary's entries are large, and what comes is the same."""
    images = [os.urandom(size) for size in (0, 1, 300_000, 40_000)]
    rows = [images[index % 4] for index in range(30)]
    for options in (
        {},
        {"use_dictionary": False},
        {"data_page_version": "2.0"},
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"compression": "none", "data_page_size": 1000},
        {"write_page_index": True, "write_page_checksum": True},
    ):
        assert read(save(tmp_path / "a.parquet", {"x": range(30), "image": rows}, **options)) == rows
    categories = {"image": [b"x"] * 30, "label": repeated(["cat", "dog"], 30)}
    pq.write_table(pa.table(categories), tmp_path / "a.parquet")
    labels = open_source(str(tmp_path), SourceOptions(label="label")).listing().column("label")
    assert labels.to_pylist() == ["cat", "dog"] * 15


def test_a_file_without_rows(tmp_path: Path) -> None:
    """Its column says that it begins at byte 0."""
    assert (
        read(save(tmp_path / "a.parquet", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}))
        == []
    )
    assert read(tmp_path / "a.parquet", label="label") == []


def test_rows_that_are_only_claimed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", {"image": pa.nulls(2 * MIB, pa.binary())}, compression="zstd")
    with pytest.raises(InputError, match=f"has {2 * MIB:,} rows, more than the limit of {MIB:,} for its size"):
        read(path)


def test_nulls_of_a_fixed_size_take_no_room_in_the_file(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.nulls(9, pa.struct([("bytes", pa.binary()), ("x", pa.binary(MIB))]))}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(InputError, match=r"the column 'image' is of the type .*fixed_size_binary.* of a size over 64"):
        read(tmp_path / "a.parquet")


def test_a_footer_of_any_size_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.parquet", {"image": [b"x"]})
    monkeypatch.setattr("coda_runtime.bulk.parquet_file._MAX_FOOTER", 100)
    with pytest.raises(InputError, match=r"its footer has [0-9]+ bytes, more than the limit of 100"):
        read(path)


def test_no_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.parquet", {"image": [b"x"]})

    def fail(*_: Any, **__: Any) -> Any:
        raise pa.ArrowMemoryError("malloc of size 8589934592 failed")

    monkeypatch.setattr(ParquetFile, "read_group", fail)
    with pytest.raises(
        InputError, match=r"needs more memory than there is .*malloc of size.*fewer rows in each row group"
    ):
        read(path)


def test_an_image_over_the_limit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_runtime.bulk.sources.fetching.MAX_BYTES", 99)
    monkeypatch.setattr("coda_runtime.bulk.sources.parquet.MAX_BYTES", 99)
    small_one, large = read(save(tmp_path / "a.parquet", {"image": [b"x" * 99, b"x" * 100]}))
    assert small_one == b"x" * 99
    assert "'a.parquet#1' has 100 bytes, more than the limit of 99; leave it out" in str(large)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_hang(made: Made, tmp_path: Path) -> None:  # noqa: F811
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet"):
        read(tmp_path / "a.parquet")
    out = copied(made, tmp_path)
    for name, told in (
        ("shard-00000.parquet", "missing or damaged|cannot be read"),
        ("manifest.json", "cannot be read"),
    ):
        (out / name).unlink()
        os.mkfifo(out / name)
        with pytest.raises(OutputError, match=told):
            TokenFolder(out)[0]


def copied(made: Made, tmp_path: Path) -> Path:  # noqa: F811
    out = tmp_path / "out"
    out.mkdir()
    for path in made[0].iterdir():
        if path.is_file():
            (out / path.name).write_bytes(path.read_bytes())
    return out


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            {"ids": pa.ListArray.from_arrays([0, *[MIB] * 2], np.zeros(MIB, np.int32))},
            "row group 0 of 'path', 'ids' unpacks",
        ),
        ({"path": repeated(["a" * 3 * MIB], 2)}, "row group 0 of 'path', 'ids' unpacks"),
        ({"ids": pa.array(["one", "two"])}, "its ids are string, expected list<int32>"),
        ({"ids": pa.array([[1, None], [2]], pa.list_(pa.int32()))}, "missing or damaged"),
        ({"other": pa.array([1, 2])}, "missing or damaged"),
    ],
)
def test_a_shard_of_somebody_else_s(made: Made, tmp_path: Path, columns: dict[str, Any], told: str) -> None:  # noqa: F811
    out = copied(made, tmp_path)
    shard = out / "shard-00000.parquet"
    rows = pq.ParquetFile(shard).read().slice(0, 2)
    table = {name: rows.column(name) for name in ("path", "ids") if "other" not in columns} | columns
    pq.write_table(pa.table(table), shard, store_schema=False, compression="zstd", row_group_size=2)
    groups = pa.concat_tables([pa.table(table)] * 2 + [pa.table(table).slice(0, 1)])
    pq.write_table(groups, shard, store_schema=False, compression="zstd", row_group_size=2)
    with pytest.raises(OutputError, match=told):
        TokenFolder(out)[0]
    assert json.loads((out / "manifest.json").read_text())["shards"][0]["images"] == 5


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bits_end_no_process(tmp_path: Path, seed: int) -> None:
    """Arrow's own reader of a footer's columns ends the process at some of them."""
    rows = {"image": [{"bytes": bytes([n] * 20), "path": f"{n}.png"} for n in range(9)], "label": ["a", "b", "c"] * 3}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=4)
    code = """
import contextlib, pathlib, random, sys
from coda_runtime import InputError
from coda_runtime.bulk.sources import SourceOptions, open_source
path, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
plain, draw = path.read_bytes(), random.Random(seed)
footer = len(plain) - 8 - int.from_bytes(plain[-8:-4], "little")
for _ in range(600):
    data = bytearray(plain)
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(draw.choice([0, footer, footer]), len(data))] ^= draw.randint(1, 255)
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        source = open_source(str(path), SourceOptions(label="label"))
        list(source.reader(source.files()).read(source.listing()))
print("all")
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.parquet"), str(seed)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr
