"""Decoding in a process of its own: an image that kills or hangs its decoder is one error, and the rest goes on.

Ray cannot tell such an image from a machine that failed, and would try it for ever.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any, cast

from ..errors import BackendError, ImageError, one_line
from ..format.color import STORED
from ..format.sizes import Size, read_size
from ..images import differs, open_rgb
from ..images.variants import ONE, Box, Variants
from .defaults import TIMEOUT_S

ATTEMPTS = 3
_PATIENCE = 1.25
_PACKAGES = str(Path(__file__).parents[2])
_READY = b"ready\n"
_SURELY_AN_IMAGE = b"P6 1 1 255\n\0\0\0"
_PATHS = "import sys; sys.path += [path for path in sys.argv[1:] if path not in sys.path]; "
_CODE = "from coda_runtime.bulk.decoding import serve; serve({seconds!r})"


@dataclass(frozen=True)
class Pixels:
    """The pixels of an image's variants, uint8 [K,height,width,3], and where each comes from.

    `width` and `height` are the upright image's, where they were asked for. `profile_ignored`: it has a colour profile
    other than sRGB, which was ignored.
    """

    data: bytes
    boxes: tuple[Box, ...] = ()
    flips: tuple[bool, ...] = ()
    profile_ignored: bool = False
    width: int | None = None
    height: int | None = None


class Decoder:
    """A process that decodes, started at the first image and again whenever one has ended it."""

    def __init__(self, seconds: float = TIMEOUT_S) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0
        self._lock = Lock()

    def decode(
        self,
        data: bytes,
        name: str,
        size: Size,
        *,
        original_size: bool,
        color: str = STORED,
        variants: Variants = ONE,
    ) -> Pixels:
        """Return the pixels of an encoded image's variants, the middle alone unless others are asked for.

        Raises ImageError, also for an image that ended the process ATTEMPTS times, and BackendError where every image
        would end it.
        """
        asked: dict[str, object] = {
            "name": name,
            "size": size,
            "original_size": original_size,
            "color": color,
            "variants": variants.to_json(),
        }
        with self._lock:
            for _ in range(ATTEMPTS):
                process = self._process or self._start()
                answer = self._ask(process, data, asked)
                if answer is not None:
                    return answer
                reason = self._end(process)
            process = self._start()
            if self._ask(process, _SURELY_AN_IMAGE, {**asked, "name": "a black pixel"}) is None:
                raise BackendError(_useless(self._end(process)))
        raise ImageError(
            f"{name!r} cannot be decoded: {reason}, {ATTEMPTS} times; convert it to PNG or JPEG, or leave it out"
        )

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._kill(self._process)

    def _ask(self, process: subprocess.Popen[bytes], data: bytes, asked: dict[str, object]) -> Pixels | None:
        """Return the answer of the process; None if it ended before."""
        stdin, stdout = _pipes(process)
        self._asked += 1
        try:
            _send(stdin, {**asked, "bytes": len(data), "number": self._asked}, data)
            told = json.loads(stdout.readline())
            pixels = stdout.read(told["bytes"])
        except (OSError, ValueError):  # of a pipe that broke, and of half a line
            return None
        except BaseException:  # an interrupt: the answer that still comes must not be the next image's
            self._kill(process)
            raise
        if told["number"] != self._asked:
            return None
        if "error" in told:
            raise ImageError(told["error"])
        if len(pixels) != told["bytes"]:
            return None
        boxes = tuple((left, top, right, bottom) for left, top, right, bottom in told["boxes"])
        return Pixels(pixels, boxes, tuple(told["flips"]), told["profile_ignored"], told["width"], told["height"])

    def _start(self) -> subprocess.Popen[bytes]:
        # -P leaves the user's working directory out of the path.
        command = [sys.executable, "-P", "-c", _PATHS + _CODE.format(seconds=self._seconds), *_paths()]
        process = subprocess.Popen(  # noqa: S603 - this Python
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            ready = _READY in iter(_pipes(process)[1].readline, b"")  # what a sitecustomize prints comes before it
        except BaseException:
            self._kill(process)
            raise
        if not ready:
            raise BackendError(_useless(self._end(process)))
        self._process = process
        return process

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> str:
        """Remove the process, which has ended or is about to; returns what ended it."""
        self._process = None
        for pipe in _pipes(process):
            with suppress(OSError):  # of bytes that nobody reads any more
                pipe.close()
        code = process.wait()
        if code == -signal.SIGALRM:
            return f"it took longer than {self._seconds:g} s"
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL), perhaps for want of memory"
        if code < 0:
            return f"it ended its process ({signal.Signals(-code).name})"
        return f"its process ended with exit code {code}"


_DECODERS: dict[float, Decoder] = {}
_DECODERS_LOCK = Lock()


def decoder(seconds: float) -> Decoder:
    """Return the decoder of this process, which ends with it; one with another time limit is ended."""
    with _DECODERS_LOCK:
        others = [_DECODERS.pop(other) for other in set(_DECODERS) - {seconds}]
        if (out := _DECODERS.get(seconds)) is None:
            out = _DECODERS[seconds] = Decoder(seconds)
            atexit.register(out.close)
    for other in others:  # outside the lock: it may be busy
        atexit.unregister(other.close)
        other.close()
    return out


def serve(seconds: float) -> None:
    """Decode what comes in on stdin until it ends, and answer on stdout; an image that takes too long ends it."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, whose end ends this one
    # Its default ends the process, whatever a decoder's C code is busy with.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers.write(_READY)
    answers.flush()
    while line := questions.readline():
        asked = json.loads(line)
        data = questions.read(asked["bytes"])
        # Later than a decoder that reads on and on is ended, which costs no process.
        signal.setitimer(signal.ITIMER_REAL, seconds * _PATIENCE)
        try:
            found = _pixels(data, asked["name"], asked, seconds)
            about: dict[str, object] = {
                "boxes": found.boxes,
                "flips": found.flips,
                "width": found.width,
                "height": found.height,
                "profile_ignored": found.profile_ignored,
            }
        except ImageError as error:
            found, about = Pixels(b""), {"error": one_line(error, limit=None)}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        with suppress(BrokenPipeError):  # who asked has ended
            _send(answers, {**about, "number": asked["number"], "bytes": len(found.data)}, found.data)


def _paths() -> list[str]:
    """Return what this process imports from, for a decoder to search after its own folders.

    Ray puts the driver's folders before the standard library, and its working directory too, where a json.py may lie.
    """
    return [*(path for path in sys.path if Path(path).is_absolute() and not _is_here(path)), _PACKAGES]


def _is_here(path: str) -> bool:
    try:
        return Path(path).samefile(".")
    except OSError:
        return False


def _useless(reason: str) -> str:
    return (
        f"no image can be decoded on {socket.gethostname()}: {reason}; check its memory and the installation, and run "
        "the same command again to continue"
    )


def _pixels(data: bytes, name: str, asked: dict[str, Any], seconds: float) -> Pixels:
    image = open_rgb(io.BytesIO(data), name=name, color=asked["color"], max_seconds=seconds)
    sides = (image.width, image.height) if asked["original_size"] else (None, None)
    crops = Variants.from_json(asked["variants"]).cut(image, read_size(asked["size"]), name)
    boxes, flips = tuple(crop.box for crop in crops), tuple(crop.flip for crop in crops)
    return Pixels(b"".join(crop.pixels.tobytes() for crop in crops), boxes, flips, differs(image), *sides)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    return cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)


def _send(pipe: IO[bytes], about: dict[str, object], data: bytes) -> None:
    pipe.write(json.dumps(about).encode() + b"\n")
    pipe.write(data)
    pipe.flush()
