"""Whole runs on a Ray cluster, of which parts die."""

from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from coda_runtime.bulk import TokenFolder, tokenize
from tests.runtime.bulk.conftest import expected, found, save_images

# Ray warns of its own future.
pytestmark = pytest.mark.filterwarnings("ignore")

T = TypeVar("T")
PATIENCE = 600.0  # seconds, for what takes a few on a quiet machine


class Gate(http.server.ThreadingHTTPServer):
    """Pictures over HTTP. Those of the first group come at once, the others wait until the gate is open."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.opened = threading.Event()
        self.waiting, self.served = 0, 0

    def handle_error(self, *_: object) -> None:
        """Who asked may have been killed."""


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Gate

    def do_GET(self) -> None:
        held = self.path.endswith(".png") and not self.path.startswith("/g0/")
        if held:
            self.server.waiting += 1
            self.server.opened.wait(PATIENCE)
        super().do_GET()
        self.server.served += held

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pictures, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    save_images(folder, 36)
    (folder / "g1" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def gate(images: Path) -> Iterator[Gate]:
    server = Gate(images)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.opened.set()
    server.shutdown()
    thread.join()
    server.server_close()


def children(parent: int) -> Iterator[tuple[int, str]]:
    """The (process id, name) of a process' children."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                status = (path / "stat").read_text()
                name = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has ended
                continue
            if int(status.rpartition(")")[2].split()[1]) == parent:
                yield int(path.name), name


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def wait_for(what: Callable[[], T]) -> T:
    """What there is of something, as soon as there is any."""
    end = time.monotonic() + PATIENCE
    while not (out := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return out


def workers(node: Any, kind: str) -> list[int]:
    return [pid for pid, name in children(raylet(node)) if name.startswith("ray::") and kind in name]


class Once:
    """A report that does something after the first finished shard."""

    def __init__(self, out: Path, act: Callable[[], None]) -> None:
        self._out, self._act, self.done = out, act, False

    def __call__(self, done: int, total: int) -> None:
        if not self.done and list(self._out.glob("*.parquet")):
            assert done < total
            self.done = True
            self._act()


def check(bundle: Path, images: Path, out: Path) -> None:
    assert found(out) == expected(bundle, images)
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert error["path"] == "g1/broken.png"
    folder = TokenFolder(out)
    folder.verify()
    assert (len(folder), folder.manifest["errors"]) == (36, 1)


def test_local_files(sealed: Path, images: Path, tmp_path: Path, ray_nodes: Any) -> None:
    done = tokenize(sealed, images, tmp_path / "out", shard_size=8, label="folder", original_size=True)
    assert (done.images, done.errors, done.shards, done.computed) == (36, 1, 5, 37)
    check(sealed, images, tmp_path / "out")
    row = TokenFolder(tmp_path / "out")[20]
    assert (row["label"], row["width"], row["height"]) == (row["path"].split("/")[0], 60, 40)


def test_workers_are_killed(sealed: Path, images: Path, gate: Gate, tmp_path: Path, ray_nodes: Any) -> None:
    def kill() -> None:
        wait_for(lambda: gate.waiting)
        for pid in wait_for(lambda: workers(ray_nodes.head_node, "MapBatches(read")):  # they wait for the gate
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        encoders = wait_for(lambda: workers(ray_nodes.head_node, "MapW"))
        for pid in encoders:
            os.kill(pid, signal.SIGSTOP)
        gate.opened.set()
        wait_for(lambda: gate.served > 8)  # what was read meanwhile is at the encoder's door
        for pid in encoders:
            os.kill(pid, signal.SIGKILL)

    report = Once(tmp_path / "out", kill)
    done = tokenize(sealed, gate.url, tmp_path / "out", shard_size=8, chunk=2, report=report)
    assert report.done
    assert (done.images, done.errors, done.shards, done.computed) == (36, 1, 5, 37)
    check(sealed, images, tmp_path / "out")


def test_a_node_is_killed(sealed: Path, images: Path, gate: Gate, tmp_path: Path, ray_nodes: Any) -> None:
    import ray

    alive = lambda: [1 for one in ray.nodes() if one["Alive"]]  # noqa: E731
    node = ray_nodes.add_node(num_cpus=2, object_store_memory=200 << 20)
    assert len(alive()) == 2

    def kill() -> None:
        # Readers of both nodes wait for the gate.
        wait_for(lambda: gate.waiting and workers(node, "MapBatches(read"))
        ray_nodes.remove_node(node, allow_graceful=False)
        gate.opened.set()

    report = Once(tmp_path / "out", kill)
    tokenize(sealed, gate.url, tmp_path / "out", shard_size=8, chunk=2, report=report)
    assert report.done
    wait_for(lambda: len(alive()) == 1)
    check(sealed, images, tmp_path / "out")
