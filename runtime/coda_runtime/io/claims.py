"""A folder by URL that one run at a time works in, where the store has no locks: claims, heartbeats and a check.

A run writes a claim, a file of a name that nobody else uses, and then lists the claims: of two that start at once, at
least the second to write sees the other, on every store that lists what has been written (S3, GCS, Azure). Who sees
another's gives up. A claim is renewed every BEAT seconds; one that has not been for PATIENCE is of a run that died, and
is taken away. A run that was only asleep for as long finds its claim gone before it writes again.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

BEAT, PATIENCE = 10.0, 40.0  # seconds
_NAME = re.compile(r"\.claim-[0-9a-f]{32}\.json")


class ClaimedError(Exception):
    """Another run works in the folder; the message names it."""


class Claim:
    """The claim of this run on a folder of an fsspec file system, while `held` runs."""

    def __init__(self, fs: Any, folder: str) -> None:
        self._fs, self._folder = fs, folder
        self._path = f"{folder}/.claim-{uuid4().hex}.json"
        self._beats = 0
        self._ended = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out while the block runs. Raises ClaimedError, and what the file system raises."""
        self._fs.makedirs(self._folder, exist_ok=True)
        self._renew()
        beating = threading.Thread(target=self._beat, name="claim", daemon=True)
        beating.start()
        try:
            self._check_others()
            yield
        finally:
            self._ended.set()
            beating.join()
            with suppress(Exception):  # each file system's package has errors of its own
                self._fs.rm_file(self._path)

    def check(self) -> None:
        """Raise ClaimedError if another run has taken this one for dead, and its place."""
        if not self._is_there(self._path):
            raise ClaimedError("a run that began when this one had not been heard of for long")

    def _check_others(self) -> None:
        """Return when those that were here before are gone, or of runs that died. Raises ClaimedError.

        One that comes later sees this one's.
        """
        others = {path: self._read(path) for path in self._others()}
        for path in [path for path in others if self._is_old(path)]:
            self._remove(path)
            del others[path]
        end = time.monotonic() + PATIENCE
        while others:
            for path in list(others):
                found = self._read(path)
                if found is None:  # it ended
                    del others[path]
                elif found != others[path]:
                    raise ClaimedError(_holder(found))
            if time.monotonic() >= end:
                for path in others:
                    self._remove(path)
                break
            if others:
                self._ended.wait(min(1.0, BEAT / 4))

    def _others(self) -> list[str]:
        self._fs.invalidate_cache(self._folder)
        paths = [str(path) for path in self._fs.ls(self._folder, detail=False)]
        mine = self._path.rpartition("/")[2]
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return [f"{self._folder}/{name}" for name in sorted(names) if _NAME.fullmatch(name) and name != mine]

    def _is_old(self, path: str) -> bool:
        """Return whether a claim is long past by the store's own clock; False where it tells no times."""
        try:
            self._fs.invalidate_cache(self._folder)
            apart = self._fs.modified(self._path) - self._fs.modified(path)
            return bool(apart.total_seconds() > PATIENCE)
        except Exception:  # each file system's package has errors of its own
            return False

    def _read(self, path: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(path))
        except FileNotFoundError:
            return None

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _is_there(self, path: str) -> bool:
        self._fs.invalidate_cache(self._folder)
        return bool(self._fs.exists(path))

    def _renew(self) -> None:
        self._beats += 1
        by = f"process {os.getpid()} on {socket.gethostname()}"
        self._fs.pipe_file(self._path, json.dumps({"by": by, "beat": self._beats}).encode())

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            # A store that fails for a while is tried again; for too long, and the claim is taken away.
            with suppress(Exception):
                if self._is_there(self._path):
                    self._renew()


def _holder(content: bytes) -> str:
    try:
        return str(json.loads(content)["by"])[:200]
    except (ValueError, KeyError, TypeError):
        return "another process"
