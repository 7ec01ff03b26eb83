"""SHA-256 of files, remembered between runs, and the SHA256SUMS file of a sealed bundle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from secrets import token_hex
from typing import Literal, NamedTuple

from ..errors import ChecksumError, OutputError, one_line
from ..io.regular_files import open_regular
from ..io.user_folders import cache_folder
from .manifest import CHECKSUMS_NAME

Verify = Literal["cached", "always"]

_SUMS_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_SETTLED_NS = 2_000_000_000
_MAX_ENTRIES, _MAX_CACHE_BYTES = 1024, 1 << 20
"""Of the remembered digests, those of some hundred bundles: the whole file is read for each."""


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
                    f"{path} has {found} bytes, but the manifest says {size}: it is truncated or altered; {_GET_AGAIN}"
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


def _cache_path() -> Path:
    return cache_folder() / "coda-runtime" / "checksums.json"


def _cache_key(stat: os.stat_result) -> list[int]:
    # The change time catches a file whose modification time was put back.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


class _Parsed(NamedTuple):
    """The cache as it was last read, and of which file: each file of a bundle asks for its own line of it."""

    state: tuple[object, ...]
    entries: dict[str, list[object]]


_last = _Parsed((), {})


def _cache_read() -> dict[str, list[object]]:
    """Read the whole cache; a missing, broken, large or foreign one counts as empty, since it only ever saves time."""
    global _last
    try:
        path = _cache_path()
        if not _is_ours(path.parent):
            return {}
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            if not _is_safe(stat):
                return {}
            state = (str(path), *_cache_key(stat))
            if _last.state == state:
                return dict(_last.entries)
            found = file.read(_MAX_CACHE_BYTES + 1)
        data = json.loads(found) if len(found) <= _MAX_CACHE_BYTES else {}
    except (OSError, ValueError, RecursionError, OutputError):  # OutputError: there is no home directory
        return {}
    entries = data if isinstance(data, dict) else {}
    _last = _Parsed(state, entries)
    return dict(entries)


def _is_ours(folder: Path) -> bool:
    """Return whether nobody else can have put files into a folder, nor have laid the link that leads to it."""
    return _is_safe(folder.stat()) and (not hasattr(os, "geteuid") or folder.lstat().st_uid in (0, os.geteuid()))


def _is_safe(stat: os.stat_result) -> bool:
    """Return whether this user and root alone may write there. Who may write the cache decides what is believed."""
    return not hasattr(os, "geteuid") or (stat.st_uid in (0, os.geteuid()) and not stat.st_mode & 0o022)


def _cache_get(path: Path, stat: os.stat_result) -> str | None:
    entry = _cache_read().get(str(path.resolve()))
    if isinstance(entry, list) and len(entry) == 5 and entry[:4] == _cache_key(stat) and isinstance(entry[4], str):
        return entry[4]
    return None


def _cache_put(path: Path, stat: os.stat_result, digest: str) -> None:
    # A file changed within the clock's tick after hashing keeps its times, so only settled files are remembered.
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < _SETTLED_NS:
        return
    # Not being able to remember is no failure: the next run hashes again.
    with contextlib.suppress(OSError, OutputError):
        cache = _cache_path()
        cache.parent.parent.mkdir(parents=True, exist_ok=True)
        cache.parent.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(cache.parent):
            # Of this user, but open to its group, as some systems make folders: what lies there is not believed.
            if cache.parent.is_symlink() or cache.parent.stat().st_uid != os.geteuid():
                return
            cache.unlink(missing_ok=True)
            cache.parent.chmod(0o700)
        entries = _cache_read()
        entries.pop(str(path.resolve()), None)
        entries[str(path.resolve())] = [*_cache_key(stat), digest]  # at the end: the oldest come first
        beside = cache.with_name(f".{cache.name}.{os.getpid()}.{token_hex(4)}")
        try:
            with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(_cache_bytes(entries))
            beside.replace(cache)
        finally:
            beside.unlink(missing_ok=True)


def _cache_bytes(entries: dict[str, list[object]]) -> bytes:
    """Return the newest entries as they are written: no more than are read back."""
    newest = list(entries.items())[-_MAX_ENTRIES:]
    while len(data := json.dumps(dict(newest)).encode()) > _MAX_CACHE_BYTES:
        newest = newest[(len(newest) + 1) // 2 :]
    return data


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
