"""Whole runs on a Ray cluster, of which parts die."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coda_runtime.bulk import TokenFolder, tokenize
from tests.runtime.bulk.conftest import expected, found, save_pictures

# Ray warns of its own future.
pytestmark = pytest.mark.filterwarnings("ignore")

PATIENCE = 600.0  # seconds, for what takes a few on a quiet machine


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pictures that take a while to read, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, 36, scale=16)
    (folder / "g1" / "broken.png").write_bytes(b"no picture")
    return folder


def children(parent: int) -> Iterator[tuple[int, str]]:
    """The (process id, name) of a process' children."""
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                status = (place / "stat").read_text()
                name = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has ended
                continue
            if int(status.rpartition(")")[2].split()[1]) == parent:
                yield int(place.name), name


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def wait_for(what: Callable[[], list[int]]) -> list[int]:
    end = time.monotonic() + PATIENCE
    while not (out := what()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)
    return out


def workers(node: Any, kind: str) -> list[int]:
    return [pid for pid, name in children(raylet(node)) if name.startswith("ray::") and kind in name]


class Once:
    """A report that does something after the first finished shard."""

    def __init__(self, out: Path, action: Callable[[], None]) -> None:
        self._out, self._action, self.done = out, action, False

    def __call__(self, done: int, total: int) -> None:
        if not self.done and list(self._out.glob("*.parquet")) and done < total:
            self.done = True
            self._action()


def check(bundle: Path, pictures: Path, out: Path) -> None:
    assert found(out) == expected(bundle, pictures)
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert error["path"] == "g1/broken.png"
    folder = TokenFolder(out)
    folder.verify()
    assert (len(folder), folder.manifest["errors"]) == (36, 1)


def test_workers_are_killed(sealed: Path, pictures: Path, tmp_path: Path, ray_nodes: Any) -> None:
    def kill() -> None:
        for kind in ("MapWorker", "MapBatches(read"):
            for pid in wait_for(lambda kind=kind: workers(ray_nodes.head_node, kind)):  # type: ignore[misc]
                os.kill(pid, signal.SIGKILL)

    report = Once(tmp_path / "out", kill)
    done = tokenize(sealed, pictures, tmp_path / "out", shard_size=8, chunk=2, report=report)
    assert report.done
    assert (done.images, done.errors, done.shards, done.computed) == (36, 1, 5, 37)
    check(sealed, pictures, tmp_path / "out")


def test_a_node_is_killed(sealed: Path, pictures: Path, tmp_path: Path, ray_nodes: Any) -> None:
    import ray

    node = ray_nodes.add_node(num_cpus=2, object_store_memory=200 << 20)
    alive = lambda: [1 for one in ray.nodes() if one["Alive"]]  # noqa: E731
    assert len(alive()) == 2

    def kill() -> None:
        wait_for(lambda: workers(node, "MapWorker") + workers(node, "MapBatches(read"))
        ray_nodes.remove_node(node, allow_graceful=False)

    report = Once(tmp_path / "out", kill)
    tokenize(sealed, pictures, tmp_path / "out", shard_size=8, chunk=2, report=report)
    assert report.done
    assert len(alive()) == 1
    check(sealed, pictures, tmp_path / "out")
