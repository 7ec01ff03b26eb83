"""Giving way, by what moves; and connections by their descriptors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from coda_runtime.serving import connections, waits

_FAST = waits.MIN_RATE * 2


def give_way_after(seconds: float, moved: Callable[[], int | None], ends: bool = True) -> bool:
    """Whether a wait that began so many seconds ago gives way; `ends` is what ending it comes to."""

    async def main() -> bool:
        all_waits = waits.Waits()
        all_waits.enter(moved, lambda: ends)
        await asyncio.sleep(seconds)
        return all_waits.give_way()

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "GRACE", 0.05)
    monkeypatch.setattr(waits, "_FIRST_LOOK", 0.01)


def test_who_moves_too_little_gives_way() -> None:
    assert give_way_after(0.2, lambda: 10**6)
    assert not give_way_after(0.02, lambda: 10**6)  # it may still come


def test_who_goes_on_does_not() -> None:
    so_far = [0]

    def moved() -> int:
        so_far[0] += _FAST
        return so_far[0]

    assert not give_way_after(0.2, moved)


def test_nobody_gives_way_where_bytes_are_not_counted_or_nothing_can_be_ended() -> None:
    assert not give_way_after(0.2, lambda: None)
    assert not give_way_after(0.2, lambda: 10**6, ends=False)


def test_a_connection_is_found_by_its_peer_measured_and_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = connections.Connections()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        peer = f"ipv4:127.0.0.1:{client.getsockname()[1]}"
        with listener.accept()[0] as served:
            client.sendall(b"x" * 1000)
            assert served.recv(1000, socket.MSG_WAITALL)
            assert own.moved(peer) == 1000
            with monkeypatch.context() as patch:  # as where the system lists no descriptors
                patch.setattr(connections, "_OWN_FILES", tmp_path / "nothing")
                assert connections.Connections().moved(peer) is None
                assert not connections.Connections().cut(peer)
            assert own.cut(peer)
            assert client.recv(1) == b""
    assert own.moved(peer) is None
    assert not own.cut("unix:/nothing")
