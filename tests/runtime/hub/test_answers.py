"""Servers in the Hub's place that answer without end, packed, byte by byte, or with a wait of years."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from coda_runtime import HubError
from coda_runtime.hub.pull import pull
from coda_runtime.hub_source import answers
from tests.hub_server import Hub
from tests.runtime import tiny
from tests.runtime.hub.conftest import REPO, files

ONE = tiny.FILES[0]
PLACES = ["", "manifest.json", ONE]
Write = Callable[[IO[bytes]], None]


def sending(head: str, piece: bytes, pause: float = 0, count: int = 1 << 40) -> Write:
    """Send the lines of a head, then a piece again and again."""

    def write(file: IO[bytes]) -> None:
        file.write(head.replace("\n", "\r\n").encode())
        for _ in range(count):
            file.write(piece)
            file.flush()
            time.sleep(pause)

    return write


OK = "HTTP/1.1 200 OK\n"
ENDLESS = sending(f"{OK}Transfer-Encoding: chunked\n\n", b"10000\r\n" + b"{" * 65536 + b"\r\n")


def refused(hub: Hub, sealed: Path, tmp_path: Path, told: str) -> None:
    """Pulling ends soon with an error that names the address, and leaves neither a folder nor half a file."""
    hub.push_folder(REPO, sealed)
    start = time.monotonic()
    with pytest.raises(HubError, match=rf"^{hub.url}/\S+, asked for {REPO}, {told}"):
        pull(REPO, tmp_path / "out")
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*incomplete*"))
    hub.raw.clear()
    assert files(pull(REPO, tmp_path / "out").folder) == files(sealed)


@pytest.mark.parametrize("place", PLACES)
def test_an_answer_without_end(hub: Hub, sealed: Path, tmp_path: Path, place: str) -> None:
    hub.raw["GET", place] = ENDLESS
    refused(hub, sealed, tmp_path, r"sends more than [\d,]+ bytes, which is all that was expected; check HF_ENDPOINT")


def test_an_error_without_end(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    hub.raw["GET", ""] = sending(
        "HTTP/1.1 404 Not Found\nTransfer-Encoding: chunked\n\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"
    )
    refused(hub, sealed, tmp_path, r"sends more than 16,777,216 bytes")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["gzip", "br", "deflate, gzip"])
def test_packed_answers(hub: Hub, sealed: Path, tmp_path: Path, place: str, how: str) -> None:
    bomb = gzip.compress(bytes(1 << 24))
    hub.raw["GET", place] = sending(f"{OK}Content-Encoding: {how}\nContent-Length: {len(bomb)}\n\n", bomb, count=1)
    refused(hub, sealed, tmp_path, f"answers with Content-Encoding '{how}', and was asked for none")


BODY, HEADERS = f"{OK}Content-Length: 999\n\n", f"{OK}X-Long: "


@pytest.mark.parametrize(
    ("place", "head"),
    [*(((("GET", file), head)) for file in ("", ONE) for head in (BODY, HEADERS)), (("HEAD", ONE), HEADERS)],
)
def test_one_byte_at_a_time(
    hub: Hub, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[str, str], head: str
) -> None:
    monkeypatch.setattr(answers, "_SLOW_AFTER", 1)
    hub.raw[place] = sending(head, b"a", 0.05)
    refused(hub, sealed, tmp_path, r"sent [\d,]+ bytes in 1 s, expected 1,024 a second at least; try again later")


def test_provisional_answers_without_end(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    hub.raw["GET", ""] = sending("", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)
    refused(hub, sealed, tmp_path, "sends more than 1048576 bytes before its answer begins")


@pytest.mark.parametrize("header", ["Retry-After: 2000000000", 'RateLimit: "api";r=0;t=2000000000'])
def test_a_wait_of_years(hub: Hub, sealed: Path, tmp_path: Path, header: str) -> None:
    hub.raw["HEAD", ONE] = sending(f"HTTP/1.1 429 Too Many Requests\n{header}\nContent-Length: 0\n\n", b"", count=1)
    refused(hub, sealed, tmp_path, "asks to wait 2000000000 s")


def test_a_slow_server_is_waited_for(hub: Hub, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to begin does not count, nor does a small answer in few pieces."""
    hub.push_folder(REPO, sealed)
    monkeypatch.setattr(answers, "_SLOW_AFTER", 0.2)
    real = hub.head(REPO)["manifest.json"]
    half = len(real) // 2

    def slowly(file: IO[bytes]) -> None:
        time.sleep(0.5)
        file.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(real)}\r\n\r\n".encode())
        file.flush()
        for piece in (real[:half], real[half:]):
            time.sleep(0.3)
            file.write(piece)
            file.flush()

    hub.raw["GET", "manifest.json"] = slowly
    assert files(pull(REPO, tmp_path / "out").folder) == files(sealed)


def test_a_session_that_is_made_anew_is_watched_too(
    hub: Hub, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub makes another one after a connection that failed."""
    from huggingface_hub.utils import close_session

    hub.push_folder(REPO, sealed)
    pull(REPO, tmp_path / "first")
    answers._install()
    close_session()
    hub.raw["GET", ""] = ENDLESS
    monkeypatch.setattr(answers, "_install", lambda: None)
    with pytest.raises(HubError, match="sends more than"):
        pull(REPO, tmp_path / "out")


def test_others_of_the_process_are_left_alone(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    hub.commit(REPO, "main", {**files(sealed), "large.txt": b"x" * (17 << 20)})
    pull(REPO, tmp_path / "out")
    hub.lying_headers["ETag"] = '"plain.but"odd"'
    assert Path(hf_hub_download(REPO, "large.txt")).stat().st_size == 17 << 20


def test_the_memory_of_an_endless_listing(hub: Hub) -> None:
    hub.commit(REPO, "main", {})
    hub.raw["GET", ""] = ENDLESS
    code = """
import coda_runtime
from coda_runtime.machine.memory import peak_bytes
try:
    coda_runtime.load("org/name")
except coda_runtime.HubError as error:
    print(error)
assert peak_bytes() < 400 << 20, peak_bytes()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sends more than 16,777,216 bytes" in done.stdout
