"""The file of remembered digests, where somebody else has put one."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coda_runtime.errors import ChecksumError, ManifestError
from coda_runtime.format import checksums
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import MAX_BYTES, Manifest
from coda_runtime.io import private_files, remembered
from tests.runtime import tiny

Copy = Callable[[Path], Path]
pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are POSIX's")
NAME = tiny.FILES[-1]


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_NS", -(2**63))


@pytest.fixture
def cache() -> Path:
    """Where the digests are remembered, in a folder as coda makes it."""
    path = remembered.cache_path()
    path.parent.mkdir(mode=0o700)
    return path


def alter(folder: Path) -> None:
    """Change the value table without a change of its size."""
    path = folder / NAME
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def remember_the_altered(folder: Path) -> None:
    """Write an entry, as whoever may write the cache can, by which the altered table is the right one."""
    alter(folder)
    path = folder / NAME
    right = next(artifact.sha256 for artifact in Bundle.open(folder).manifest.artifacts if artifact.file == NAME)
    entry = [*checksums._cache_key(path.stat()), right]
    remembered.cache_path().write_text(json.dumps({str(path.resolve()): entry}))


def test_it_is_written_for_its_user_alone(sealed: Path) -> None:
    before = os.umask(0)
    try:
        Bundle.open(sealed).verify()
    finally:
        os.umask(before)
    path = remembered.cache_path()
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path.parent, path)] == [0o700, 0o600]


@pytest.mark.parametrize("where", ["file", "folder"])
def test_what_others_may_write_is_not_believed(sealed: Path, copy: Copy, cache: Path, where: str) -> None:
    folder = copy(sealed)
    remember_the_altered(folder)
    (cache if where == "file" else cache.parent).chmod(0o777)
    with pytest.raises(ChecksumError, match="altered"):
        Bundle.open(folder).verify()


@pytest.mark.parametrize("where", ["file", "folder"])
def test_what_another_user_owns_is_not_believed(
    sealed: Path, copy: Copy, cache: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder = copy(sealed)
    remember_the_altered(folder)
    foreign = cache if where == "file" else cache.parent
    real = private_files.is_safe

    def is_safe(found: os.stat_result) -> bool:
        if os.path.samestat(found, foreign.stat()):
            values = list(found)
            values[stat.ST_UID] = os.geteuid() + 1
            found = os.stat_result(values)
        return real(found)

    monkeypatch.setattr(private_files, "is_safe", is_safe)
    with pytest.raises(ChecksumError, match="altered"):
        Bundle.open(folder).verify()


def test_a_folder_that_its_own_user_left_open_is_closed_and_emptied(sealed: Path, copy: Copy, cache: Path) -> None:
    folder = copy(sealed)
    remember_the_altered(folder)
    cache.parent.chmod(0o775)
    Bundle.open(sealed).verify()
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    assert {Path(path).parent for path in json.loads(cache.read_bytes())} == {sealed.resolve()}
    with pytest.raises(ChecksumError, match="altered"):
        Bundle.open(folder).verify()


@pytest.mark.parametrize(
    "put",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.mkdir(),
        lambda path: (path.touch(0o600), os.truncate(path, 64 << 30)),
        lambda path: path.symlink_to(path),
    ],
    ids=["a pipe", "a device", "a folder", "64 GiB", "a circle"],
)
def test_what_is_no_small_file_counts_as_nothing(sealed: Path, cache: Path, put: Callable[[Path], Any]) -> None:
    put(cache)
    started = time.monotonic()
    Bundle.open(sealed).verify()
    assert time.monotonic() - started < 10


def test_it_does_not_grow_without_end(sealed: Path, cache: Path) -> None:
    old = {f"/srv/bundles/{i:032x}/encoder.fp32.onnx": [1, 2, 3, 4, "0" * 64] for i in range(5000)}
    cache.write_text(json.dumps(old))
    cache.chmod(0o600)
    Bundle.open(sealed).verify()
    kept = json.loads(cache.read_bytes())
    assert len(kept) <= 2048
    assert {str((sealed / file).resolve()) for file in tiny.FILES} <= set(kept)
    assert cache.stat().st_size <= 1 << 20


def test_long_paths_are_bounded_in_bytes() -> None:
    entries: dict[str, list[object]] = {f"/{i}" + "x" * 4000: [1, 2, 3, 4, "0" * 64] for i in range(1000)}
    data = remembered._dump(entries)
    assert len(data) <= 1 << 20
    assert list(entries)[-1] in json.loads(data)


@pytest.mark.parametrize(
    "text",
    [
        "[" + "[]," * 5_000_000 + "[]]",
        '{"format_version":1,"spec":{' + ",".join(f'"k{i}":{{}}' for i in range(1_000_000)) + "}}",
        '{"format_version":1,"artifacts":[],"spec":[' + "1," * 8_000_000 + "1]}",
        '{"format_version":1,"artifacts":{' + '"a":[' * 60 + '"' + "x" * 15_000_000 + '"' + "]" * 60 + "}}",
    ],
    ids=["lists", "keys", "numbers", "text"],
)
def test_a_manifest_of_sixteen_megabytes_costs_no_seconds(text: str) -> None:
    data = text.encode()[:MAX_BYTES]
    started = time.process_time()
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(data)
    assert time.process_time() - started < 1.5
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("file", tiny.FILES)
def test_a_file_larger_than_its_kind_may_be_is_not_hashed(
    sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """A sparse file of 20 GB takes no room, and a minute to hash."""
    folder = copy(sealed)
    (folder / "SHA256SUMS").unlink()
    os.truncate(folder / file, 20 << 30)

    def change(data: dict[str, Any]) -> None:
        data.pop("checksums")
        next(entry for entry in data["artifacts"] if entry["file"] == file)["bytes"] = 20 << 30

    tiny.edit_manifest(folder, change)
    monkeypatch.setattr(checksums, "hash_open", lambda file: pytest.fail(f"hashed {file.name}"))
    with pytest.raises(ManifestError, match=rf"bytes is {20 << 30}, expected \d+ at most for {file}"):
        Bundle.open(folder).verify("always")


def test_a_file_of_another_size_is_not_hashed(sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy(sealed)
    os.truncate(folder / tiny.FILES[0], 20 << 30)
    monkeypatch.setattr(checksums, "hash_open", lambda file: pytest.fail(f"hashed {file.name}"))
    with pytest.raises(ChecksumError, match=f"has {20 << 30:,} bytes"):
        Bundle.open(folder).verify("always")
