"""SHA-256 of files, remembered between runs, and the SHA256SUMS file of a sealed bundle."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Literal

from ..errors import ChecksumError, one_line
from ..io import remembered
from ..io.counts import count
from ..io.regular_files import open_regular
from .manifest import CHECKSUMS_NAME

Verify = Literal["cached", "always"]

_SUMS_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_SETTLED_NS = 2_000_000_000


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 lower-case hexadecimal digits. Raises OSError."""
    with open_regular(path) as file:
        return hash_open(file)


def hash_open(file: BufferedReader) -> str:
    """Return the SHA-256 of what is left to read of an open file. Raises OSError."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, sha256: str, size: int, *, verify: Verify = "cached") -> None:
    """Compare a file with its size in bytes and its SHA-256.

    "cached" believes an earlier result for the same path, size, times and inode; "always" reads the file.
    Raises ChecksumError.
    """
    with _opened(path, size) as file:
        stat = os.fstat(file.fileno())
        found = _cache_get(path, stat) if verify == "cached" else None
        if found is None:
            found = hash_open(file)
            _remember(path, file, stat, found)
    _compare(path, found, sha256)


def read_file(path: Path, sha256: str, size: int, *, verify: Verify = "cached") -> bytes:
    """Return a file's bytes, which are those of this size and SHA-256, whatever becomes of the file meanwhile.

    It is opened once. "cached" believes an earlier result for the open file if nobody wrote to it while it was read;
    "always" hashes the bytes that are returned. Raises ChecksumError.
    """
    with _opened(path, size) as file:
        stat = os.fstat(file.fileno())
        found = _cache_get(path, stat) if verify == "cached" else None
        data = file.read(size + 1)
        if found is None or _cache_key(os.fstat(file.fileno())) != _cache_key(stat):
            found = hashlib.sha256(data).hexdigest()
            _remember(path, file, stat, found)
    _compare(path, found, sha256)
    return data


@contextlib.contextmanager
def _opened(path: Path, size: int) -> Iterator[BufferedReader]:
    """Open a file of `size` bytes; a read that fails in the block is a ChecksumError too."""
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise ChecksumError(
                    f"{path} has {count(found, 'byte')}, but the manifest says {size:,}: it is truncated or altered; "
                    f"{_GET_AGAIN}"
                )
            yield file
    except OSError as error:
        raise ChecksumError(f"{path} cannot be read ({one_line(error)}); {_GET_AGAIN}") from error


def _compare(path: Path, found: str, sha256: str) -> None:
    if found != sha256:
        raise ChecksumError(
            f"{path} has SHA-256 {found[:12]}..., but the manifest says {sha256[:12]}...: it was altered; {_GET_AGAIN}"
        )


def _remember(path: Path, file: BufferedReader, before: os.stat_result, digest: str) -> None:
    """Keep what an open file's bytes hash to, unless it was written to meanwhile."""
    if _cache_key(os.fstat(file.fileno())) == _cache_key(before):
        _cache_put(path, before, digest)


def format_sums(digests: Mapping[str, str]) -> bytes:
    """Return the bytes of SHA256SUMS for {file name: SHA-256}, as `sha256sum -c` reads them."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def parse_sums(data: bytes, path: Path) -> dict[str, str]:
    """Read SHA256SUMS, {file name: SHA-256}. Every line must parse, the last one too. Raises ChecksumError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ChecksumError(f"{path} is not UTF-8 text ({error.reason}): it was altered; {_GET_AGAIN}") from error
    *lines, rest = text.split("\n")
    if rest or not lines:
        raise ChecksumError(f"{path} does not end with a whole line: it is truncated; {_GET_AGAIN}")
    out: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _SUMS_LINE.fullmatch(line)
        if match is None or match[2] in out:
            found = "a name that came before" if match else "something else"
            raise ChecksumError(
                f"{path}, line {number}: expected a SHA-256, two spaces and a file name, found {found}; {_GET_AGAIN}"
            )
        out[match[2]] = match[1]
    return out


_GET_AGAIN = "copy, download or export the bundle again"


def _cache_key(stat: os.stat_result) -> list[int]:
    # The change time catches a file whose modification time was put back.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _cache_get(path: Path, stat: os.stat_result) -> str | None:
    entry = remembered.recall(str(path.resolve()))
    if entry is not None and len(entry) == 5 and entry[:4] == _cache_key(stat) and isinstance(entry[4], str):
        return entry[4]
    return None


def _cache_put(path: Path, stat: os.stat_result, digest: str) -> None:
    # A file changed within the clock's tick after hashing keeps its times, so only settled files are remembered.
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) >= _SETTLED_NS:
        remembered.remember(str(path.resolve()), [*_cache_key(stat), digest])


def sums_problem(listed: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """Return how SHA256SUMS differs from what it should list, in words, or None when it does not."""
    if missing := sorted(expected.keys() - listed.keys()):
        return f"{CHECKSUMS_NAME} does not list {', '.join(missing)}"
    if unknown := sorted(listed.keys() - expected.keys()):
        return f"{CHECKSUMS_NAME} lists {', '.join(map(repr, unknown))}, which the manifest does not"
    for name, digest in expected.items():
        if listed[name] != digest:
            return f"{name} and {CHECKSUMS_NAME} disagree: one of them was altered"
    return None
