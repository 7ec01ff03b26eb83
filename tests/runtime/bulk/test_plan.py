"""A plan of many images is in memory as it lies on disk, and Ray gets it in rounds."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import OutputError
from coda_runtime.bulk import pipeline
from coda_runtime.bulk.plan import Plan, Settings, make_plan, read_plan
from coda_runtime.bulk.sources.base import Part, table, table_of
from coda_runtime.io.omitted import Omitted
from tests.runtime import tiny


def settings(shard_size: int, label: str | None = None) -> Settings:
    return Settings("made up", shard_size, "fp32", {}, tiny.SPEC.to_json(), label, False, "image", None)


def listing(images: int, files: int) -> pa.Table:
    """As of so many tar files."""
    each = -(-images // files)
    numbers = [range(first, min(images, first + each)) for first in range(0, images, each)]
    return table_of(
        [
            Part(
                f"/data/{k:05d}.tar",
                pa.array([f"{k:05d}.tar/{n:09d}.jpg" for n in some]),
                {"offset": some, "size": some},
            )
            for k, some in enumerate(numbers)
        ],
        None,
    )


@given(images=st.integers(1, 60), files=st.integers(1, 7), shard_size=st.integers(1, 70))
def test_every_shard(images: int, files: int, shard_size: int) -> None:
    """Whatever the shards and the files that the images lie in: and a plan in one piece, as of before, is the same."""
    rows = listing(images, files)
    plan, data = make_plan(settings(shard_size), rows, {}, Omitted())
    again = read_plan(data, "it")
    assert (again.images, again.digest, again.shards) == (images, plan.digest, -(-images // shard_size))
    for whole in (False, True):
        if whole:
            again = Plan(again.settings, type(again.rows)(pa.ipc.open_file(data), rows), images, 0, {}, Omitted(), "")
        found = [again.shard(number) for number in range(again.shards)]
        assert [part.num_rows for part in found] == [again.shard_images(number) for number in range(again.shards)]
        for name in rows.column_names:
            values = [value for part in found for value in part.column(name).to_pylist()]
            assert values == rows.column(name).to_pylist()


def test_one_shard_is_unpacked_at_a_time() -> None:
    images, shard_size = 60_000, 1_000
    rows = listing(images, 6)
    whole = rows.nbytes
    _, data = make_plan(settings(shard_size), rows, {}, Omitted())
    del rows
    gc.collect()
    before = pa.total_allocated_bytes()
    plan = read_plan(data, "it")
    for number in range(plan.shards):
        assert plan.shard(number).num_rows == shard_size
        assert pa.total_allocated_bytes() - before < whole / 10
    assert len(data) < whole / 4


def test_files_that_came_later() -> None:
    names = [f"/data/{number}.jpg" for number in range(25)]
    rows = table([name[6:] for name in names], names, None)
    assert rows.schema.field("file").type == pa.binary()  # no dictionary of all names
    plan, _ = make_plan(settings(4), rows, dict.fromkeys(names, ""), Omitted())
    assert plan.left_out(names) == 0
    assert plan.left_out(["/data/x.jpg", *names[3:], "/data/y.jpg"]) == 2


def test_damage_is_told_when_it_is_met() -> None:
    _, data = make_plan(settings(10), listing(30, 3), {}, Omitted())
    plan = read_plan(data, "it")
    broken = bytearray(data)
    middle = data.index(b"\x28\xb5\x2f\xfd", len(data) // 2)  # a block that zstd compressed
    broken[middle : middle + 4] = b"none"
    assert plan.shard(1).num_rows == 10
    damaged = read_plan(bytes(broken), "it")
    with pytest.raises(OutputError, match=r"^the plan is damaged in shard \d \(.*\); choose another --out$"):
        [damaged.shard(number) for number in range(3)]


@given(count=st.integers(0, 40), shard_size=st.integers(1, 50), size=st.integers(1, 9), limit=st.integers(1, 30))
def test_rounds(count: int, shard_size: int, size: int, limit: int) -> None:
    """Each shard once, in order, and no more chunks at once than the limit, or one shard's."""
    plan: Any = type("Plan", (), {"settings": settings(shard_size)})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_CHUNKS_PER_ROUND", limit)
        found = list(pipeline.rounds(plan, range(count), size))
    assert [number for some in found for number in some] == list(range(count))
    chunks = -(-shard_size // size)
    assert all(len(some) * chunks <= max(limit, chunks) for some in found)
    assert np.prod([len(some) for some in found]) != 0
