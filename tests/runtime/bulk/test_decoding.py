"""An image that kills or hangs the process that decodes it is named after three attempts, and the rest goes on."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime import BackendError, ImageError
from coda_runtime.bulk import TokenFolder, decoding, tokenize
from coda_runtime.bulk.decoding import ATTEMPTS, Decoder
from coda_runtime.images import fit_bytes
from tests.runtime import tiny
from tests.runtime.bulk.conftest import expected, found, png, save_images
from tests.runtime.bulk.local_pipeline import without_ray

IMAGE, OTHER = (png(image) for image in tiny.photos(2, 40, 60))
# What a hole in a C library does, for whoever decodes a file with these words in it.
POISONOUS = """
import os, signal, time
from coda_runtime.bulk import decoding

def poisonous(data, *arguments, original=decoding._pixels):
    if b"poison" in data:
        with open(os.environ["ATTEMPTS"], "a") as file:
            print(arguments[0], file=file)
    if b"poison: segfault" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"poison: memory" in data or "EVERY" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"poison: slow" in data:
        time.sleep(0.9)
    if b"poison: hang" in data:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(600)
    return original(data, *arguments)

decoding._pixels = poisonous
"""


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which every attempt at a poisonous image gets a line."""
    (tmp_path / "poison").mkdir()
    (tmp_path / "poison" / "poisonous.py").write_text(POISONOUS)
    monkeypatch.setenv("ATTEMPTS", str(tmp_path / "attempts"))
    monkeypatch.syspath_prepend(str(tmp_path / "poison"))
    monkeypatch.setattr(decoding, "_CODE", f"import poisonous; {decoding._CODE}")
    monkeypatch.setattr(decoding, "_DECODERS", {})
    (tmp_path / "attempts").touch()
    return tmp_path / "attempts"


@pytest.fixture
def decoder(attempts: Path) -> Iterator[Decoder]:
    decoder = Decoder(1.0)
    yield decoder
    decoder.close()


def test_pixels_are_those_of_this_process(decoder: Decoder) -> None:
    made = decoder.decode(IMAGE, "a.png", 32, original_size=False)
    assert (made.data, made.width) == (fit_bytes(IMAGE, 32, name="a").tobytes(), None)
    made = decoder.decode(IMAGE, "a.png", 32, original_size=True)
    assert (np.frombuffer(made.data, np.uint8).size, made.width, made.height) == (32 * 32 * 3, 60, 40)
    with pytest.raises(ImageError, match=r"^'b\.png' is not an image"):
        decoder.decode(b"words", "b.png", 32, original_size=False)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("segfault", r"it ended its process \(SIGSEGV\)"),
        ("memory", r"its process was killed \(SIGKILL\), perhaps for want of memory"),
        ("hang", "it took longer than 1 s"),
    ],
)
def test_three_attempts(decoder: Decoder, attempts: Path, kind: str, told: str) -> None:
    with pytest.raises(ImageError, match=rf"^'x\.png' cannot be decoded: {told}, 3 times; convert it .* leave it out$"):
        decoder.decode(IMAGE + b"poison: " + kind.encode(), "x.png", 32, original_size=False)
    assert attempts.read_text() == "x.png\n" * ATTEMPTS
    assert decoder.decode(IMAGE, "a.png", 32, original_size=False).data  # the rest goes on


def test_where_no_image_can_be_decoded_none_is_blamed(
    decoder: Decoder, attempts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERY", "1")
    with pytest.raises(BackendError, match=r"no image can be decoded on .*SIGKILL.*run the same command again"):
        decoder.decode(IMAGE, "a.png", 32, original_size=False)
    monkeypatch.setattr(decoding, "_CODE", "raise SystemExit(7)")
    with pytest.raises(BackendError, match=r"no image can be decoded on .*: its process ended with exit code 7; check"):
        Decoder().decode(IMAGE, "a.png", 32, original_size=False)


class Interrupted(BaseException):
    """What a signal's handler raises."""


def pixels_are_their_own(decoder: Decoder) -> None:
    for data in (IMAGE, OTHER):
        made = decoder.decode(data, "a.png", 32, original_size=False)
        assert made.data == fit_bytes(data, 32, name="a").tobytes()


def test_no_image_gets_the_pixels_of_one_that_was_interrupted(decoder: Decoder, attempts: Path) -> None:
    def interrupt() -> None:
        while not attempts.read_text():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def handle(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            decoder.decode(OTHER + b"poison: slow", "x.png", 32, original_size=False)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    pixels_are_their_own(decoder)


def test_an_interrupt_while_the_process_starts(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(process: object, original: Any = decoding._pipes) -> Any:
        monkeypatch.setattr(decoding, "_pipes", original)
        raise Interrupted

    monkeypatch.setattr(decoding, "_pipes", interrupted)
    with pytest.raises(Interrupted):
        decoder.decode(IMAGE, "a.png", 32, original_size=False)
    assert decoder._process is None
    pixels_are_their_own(decoder)


def test_an_answer_to_another_question_is_not_taken(decoder: Decoder) -> None:
    decoder.decode(IMAGE, "a.png", 32, original_size=False)
    process = decoder._process
    assert process is not None
    assert process.stdin is not None
    about = {"bytes": len(OTHER), "name": "x.png", "size": 32, "original_size": False, "color": "stored", "number": 0}
    process.stdin.write(json.dumps(about).encode() + b"\n" + OTHER)
    pixels_are_their_own(decoder)


def test_files_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where it is on sys.path, as the driver's folder is in Ray's workers."""
    for name in ("json.py", "coda_runtime.py", "defusedxml.py"):
        (tmp_path / name).write_text("open('RUN', 'w').close(); raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path)
    for path in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [path, *sys.path])
        decoder = Decoder()
        assert decoder.decode(IMAGE, "a.png", 32, original_size=False).data
        decoder.close()
    assert not (tmp_path / "RUN").exists()


def test_a_decoder_ends_with_who_asks(decoder: Decoder) -> None:
    decoder.decode(IMAGE, "a.png", 32, original_size=False)
    process = decoder._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0


def test_another_time_limit_leaves_no_process_behind() -> None:
    first = decoding.decoder(50.0)
    first.decode(IMAGE, "a.png", 32, original_size=False)
    process = first._process
    assert process is not None
    assert decoding.decoder(50.0) is first
    second = decoding.decoder(60.0)
    assert process.returncode is not None
    pixels_are_their_own(second)
    second.close()


def test_poison_goes_to_errors_and_the_rest_goes_on(sealed: Path, tmp_path: Path, attempts: Path) -> None:
    photos = tmp_path / "photos"
    save_images(photos, 6)
    want = expected(sealed, photos)
    for name in ("g0/segfault.png", "g1/hang.png", "g2/memory.png"):
        (photos / name).write_bytes(IMAGE + f"poison: {Path(name).stem}".encode())
    began = time.monotonic()
    with without_ray():
        done = tokenize(sealed, photos, tmp_path / "out", shard_size=4, image_timeout=0.5)
    assert (done.images, done.errors) == (6, 3)
    assert found(tmp_path / "out") == want
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [error["path"] for error in errors] == ["g0/segfault.png", "g1/hang.png", "g2/memory.png"]
    assert "it took longer than 0.5 s, 3 times" in errors[1]["error"]
    assert len(attempts.read_text().splitlines()) == 3 * ATTEMPTS
    assert time.monotonic() - began < 300
    TokenFolder(tmp_path / "out").verify()
    decoding.decoder(0.5).close()
