"""The folder that a run writes to, local or by URL: files appear in it whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

from ..errors import InputError, OutputError, one_line
from ..io.atomic_files import staged_file
from ..io.claims import Claim, ClaimedError
from ..io.folder_lock import held_folder
from ..io.regular_files import open_regular
from ..io.remote import is_local, open_filesystem, redacted

_WHOLE_UPLOADS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "hf", "memory"})
"""File systems on which an object is there when its upload has ended, and not before."""
_LOCK = ".lock"
_BESIDE = re.compile(r"\..+\.part")


class Destination:
    """A folder on any fsspec file system. Raises OutputError where it cannot be read or written."""

    def __init__(self, where: str) -> None:
        self._fs, path = open_filesystem(where)
        self.path = path.rstrip("/")
        self.url = redacted(where)
        self._local = Path(self.path) if is_local(self._fs) else None
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._claim: Claim | None = None
        self._whole = bool(_WHOLE_UPLOADS & set(protocols))
        if self._local is not None and self._local.exists() and not self._local.is_dir():
            raise OutputError(f"{self.url} is a file; expected the name of a folder to write to")

    @property
    def local(self) -> Path | None:
        """The folder, None where it is not on this machine."""
        return self._local

    def holds(self, source: str) -> bool:
        """Return whether a source, a path or a pattern on this machine, is this folder or is in it; False for URLs."""
        return (
            self._local is not None
            and ":" not in source
            and Path(source).absolute().is_relative_to(self._local.absolute())
        )

    def names(self) -> list[str]:
        """Return the files in the folder, sorted; none if there is no folder."""
        with self._explained("listed"):
            self._fs.invalidate_cache(self.path)
            if not self._fs.exists(self.path):
                return []
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self.path, detail=False))

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        if self._local is not None:
            with self.open(name) as file, self._explained("read"):
                return file.read()
        with self._explained("read"):
            return bytes(self._fs.cat_file(self._at(name)))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for random access."""
        with self._explained("read"):
            file: IO[bytes] = (
                self._fs.open(self._at(name), "rb") if self._local is None else open_regular(self._at(name))
            )
            return file

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        with self._explained("read"):
            return int(self._fs.info(self._at(name))["size"])

    def write(self, name: str, data: bytes) -> None:
        """Put a file in its place, whole, over one that is there."""
        if self._local is not None:
            with staged_file(self._local / name) as beside, beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a machine that loses power must not leave a name without its bytes
            return
        with self._explained("written"):
            if self._claim is not None:
                self._claim.check()
            if self._whole:
                self._fs.pipe_file(self._at(name), data)
                return
            beside_name = self._at(f".{name}.{uuid4().hex}.part")
            self._fs.makedirs(self.path, exist_ok=True)
            self._fs.pipe_file(beside_name, data)
            self._fs.mv(beside_name, self._at(name))

    def remove(self, name: str) -> None:
        """Take a file away."""
        with self._explained("written"):
            self._fs.rm_file(self._at(name))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out while the block runs; the lock of a run that died is free. Clears away what one left.

        By URL it is a claim, and `write` raises OutputError where another run has taken this one's place. Raises
        InputError where another run is at work.
        """
        with ExitStack() as stack:
            if self._local is None:
                claim = Claim(self._fs, self.path)
                with self._explained("written"):
                    try:
                        stack.enter_context(claim.held())
                    except ClaimedError as error:
                        raise InputError(_busy(self.url, error)) from error
                self._claim = claim
                stack.callback(self._forget)
                yield
                return
            with self._explained("written"):
                try:
                    stack.enter_context(held_folder(self._local, _LOCK))
                except BlockingIOError as error:
                    raise InputError(_busy(self.url, error)) from error
            for name in self.names():
                if _BESIDE.fullmatch(name):
                    (self._local / name).unlink(missing_ok=True)
            yield

    def _forget(self) -> None:
        self._claim = None

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (InputError, OutputError):
            raise
        except ClaimedError as error:
            raise OutputError(
                f"{self.url} is written by {error}; leave it to that one, or stop it and run the same command again"
            ) from error
        except Exception as error:  # each file system's package has errors of its own
            raise OutputError(
                f"{self.url} cannot be {what} ({one_line(error, named=True)}); choose another place, or check "
                "its permissions"
            ) from error


def _busy(url: str, error: Exception) -> str:
    holder = error.args[1] if isinstance(error, BlockingIOError) and len(error.args) > 1 else str(error)
    return f"another run is writing to {url} ({holder}); wait for it to end, stop it, or choose another --out"
