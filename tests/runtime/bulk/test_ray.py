"""Whole runs on a Ray cluster, of which parts die."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coda_runtime.bulk import TokenFolder, tokenize
from tests.runtime.bulk.conftest import expected, found, save_pictures

# Ray warns of its own future.
pytestmark = pytest.mark.filterwarnings("ignore")

PATIENCE = 600.0  # seconds, for what takes a few on a quiet machine
ATTEMPTS = 5  # at killing something that is still at work: on a busy machine all may be done before we look


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


def wait_for(what: Callable[[], list[int]], seconds: float = 10.0) -> list[int]:
    """What there is of something, or nothing if that does not come."""
    end = time.monotonic() + seconds
    while not (out := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return out


def workers(node: Any, kind: str) -> list[int]:
    return [pid for pid, name in children(raylet(node)) if name.startswith("ray::") and kind in name]


class Once:
    """A report that kills something after the first finished shard; `done` if there was something."""

    def __init__(self, out: Path, kill: Callable[[], bool]) -> None:
        self._out, self._kill, self._called, self.done = out, kill, False, False

    def __call__(self, done: int, total: int) -> None:
        if not self._called and list(self._out.glob("*.parquet")) and done < total:
            self._called = True
            self.done = self._kill()


def check(bundle: Path, pictures: Path, out: Path) -> None:
    assert found(out) == expected(bundle, pictures)
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert error["path"] == "g1/broken.png"
    folder = TokenFolder(out)
    folder.verify()
    assert (len(folder), folder.manifest["errors"]) == (36, 1)


def test_workers_are_killed(sealed: Path, pictures: Path, tmp_path: Path, ray_nodes: Any) -> None:
    def kill() -> bool:
        # The readers first, whose work ends before the encoder's.
        found = [wait_for(lambda kind=kind: workers(ray_nodes.head_node, kind)) for kind in ("MapBatches(read", "MapW")]  # type: ignore[misc]
        for pid in (pid for pids in found for pid in pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return all(found)

    for attempt in range(ATTEMPTS):
        report = Once(out := tmp_path / f"out-{attempt}", kill)
        done = tokenize(sealed, pictures, out, shard_size=8, chunk=2, report=report)
        if report.done:
            break
    assert report.done
    assert (done.images, done.errors, done.shards, done.computed) == (36, 1, 5, 37)
    check(sealed, pictures, out)


def test_a_node_is_killed(sealed: Path, pictures: Path, tmp_path: Path, ray_nodes: Any) -> None:
    import ray

    alive = lambda: [1 for one in ray.nodes() if one["Alive"]]  # noqa: E731

    def kill() -> bool:
        at_work = wait_for(lambda: workers(node, "MapWorker") + workers(node, "MapBatches(read"))
        ray_nodes.remove_node(node, allow_graceful=False)
        return bool(at_work)

    for attempt in range(ATTEMPTS):
        node = ray_nodes.add_node(num_cpus=2, object_store_memory=200 << 20)
        assert len(alive()) == 2
        report = Once(out := tmp_path / f"out-{attempt}", kill)
        tokenize(sealed, pictures, out, shard_size=8, chunk=2, report=report)
        if report.done:
            break
        if node in ray_nodes.worker_nodes:
            ray_nodes.remove_node(node, allow_graceful=False)
    assert report.done
    assert len(alive()) == 1
    check(sealed, pictures, out)
