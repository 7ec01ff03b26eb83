"""Claims on a folder by URL: one run at a time, and none that was asleep writes over its successor."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from coda_runtime import InputError, OutputError
from coda_runtime.bulk.destination import Destination
from coda_runtime.io import claims


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder in memory, with beats of 50 ms."""
    monkeypatch.setattr(claims, "BEAT", 0.05)
    monkeypatch.setattr(claims, "PATIENCE", 0.4)
    where = f"memory://{uuid.uuid4().hex}/out"
    yield where
    fsspec.filesystem("memory").rm(where.removeprefix("memory:/").rsplit("/", 1)[0], recursive=True)


def test_one_at_a_time(url: str) -> None:
    first, second = Destination(url), Destination(url)
    with first.held():
        first.write("a", b"1")
        told = r"another run is writing to memory://.* \(process \d+ on .*\); wait for"
        with pytest.raises(InputError, match=told), second.held():
            raise AssertionError
        first.write("a", b"2")
    with second.held():
        second.write("a", b"3")
    assert second.names() == ["a"]
    assert second.read("a") == b"3"


def test_of_many_that_start_at_once_one_at_most_goes_on(url: str) -> None:
    inside, most = 0, 0
    refused: list[str] = []
    lock, gate, done = threading.Lock(), threading.Barrier(6), threading.Barrier(6)

    def start() -> None:
        nonlocal inside, most
        gate.wait()
        try:
            with Destination(url).held():
                with lock:
                    inside += 1
                    most = max(most, inside)
                done.wait()
                with lock:
                    inside -= 1
        except InputError as error:
            refused.append(str(error))
            done.wait()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 1
    assert len(refused) >= 5


@pytest.mark.parametrize("clock", [True, False])
def test_a_run_that_died_or_slept(url: str, clock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim beats no more; when it wakes up, it writes nothing. With the store's times, and by waiting."""
    if not clock:

        def none(*_: object) -> Any:
            raise NotImplementedError

        monkeypatch.setattr(type(fsspec.filesystem("memory")), "modified", none)
    asleep, next_one = Destination(url), Destination(url)
    with monkeypatch.context() as patch, asleep.held():
        asleep.write("a", b"mine")
        patch.setattr(claims.Claim, "_renew", lambda self: None)
        threading.Event().wait(0.1)
        patch.undo()
        assert asleep._claim is not None
        asleep._claim._ended.set()  # no beat comes any more
        with next_one.held():
            next_one.write("a", b"theirs")
            with pytest.raises(OutputError, match="is written by a run that began when this one had not been heard of"):
                asleep.write("a", b"mine again")
    assert next_one.read("a") == b"theirs"
    assert next_one.names() == ["a"]


def test_a_claim_that_is_none(url: str) -> None:
    """Bytes that nobody understands are somebody's, until they have not changed for long."""
    fs = fsspec.filesystem("memory")
    path = f"{url.removeprefix('memory:/')}/.claim-{'0' * 32}.json"
    fs.pipe_file(path, b"?")
    with Destination(url).held():
        assert not fs.exists(path)
