from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import coda_runtime
from coda_runtime import ArtifactError, BundleError, BundleNotFoundError, ChecksumError, CodaError
from coda_runtime.format import checksums as sums
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.io import remembered
from tests.runtime import tiny

Copy = Callable[[Path], Path]
ALL_FILES = ("manifest.json", "SHA256SUMS", *tiny.FILES)


def _problems(folder: Path) -> list[str]:
    """What loading says; empty if the bundle loads."""
    try:
        coda_runtime.load(folder).close()
    except CodaError as error:
        return [str(error)]
    return []


def test_a_sealed_bundle_satisfies_sha256sum(sealed: Path) -> None:
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("sha256sum is not installed")
    done = subprocess.run([tool, "--strict", "-c", "SHA256SUMS"], cwd=sealed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == len(ALL_FILES) - 1


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_flipped_byte_anywhere_is_found(sealed: Path, copy: Copy, name: str) -> None:
    folder = copy(sealed)
    whole = (folder / name).read_bytes()
    step = max(1, len(whole) // 40)
    for at in sorted({*range(0, len(whole), step), len(whole) - 1}):
        for mask in (1, 0x20, 0x80):
            (folder / name).write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            with pytest.raises(BundleError):
                Bundle.open(folder).verify()
    (folder / name).write_bytes(whole)
    assert _problems(folder) == []


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_cut_or_longer_or_missing_file_is_found(sealed: Path, copy: Copy, name: str) -> None:
    folder = copy(sealed)
    whole = (folder / name).read_bytes()
    for damaged in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"\n", whole + whole):
        (folder / name).write_bytes(damaged)
        assert len(_problems(folder)) == 1
    (folder / name).unlink()
    assert len(_problems(folder)) == 1


def test_every_byte_of_sha256sums_counts(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    whole = (folder / "SHA256SUMS").read_bytes()
    for at in range(len(whole)):
        (folder / "SHA256SUMS").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        name, problem = next(Bundle.open(folder).check())
        assert name == "manifest.json"
        assert isinstance(problem, ChecksumError)


def test_dropping_the_checksums_key_does_not_hide_a_change(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    tiny.edit_manifest(folder, lambda data: data.pop("checksums"))
    with pytest.raises(ChecksumError, match=r"manifest\.json and SHA256SUMS disagree"):
        Bundle.open(folder).verify()


def test_messages_say_which_file_and_what_to_do(minimal: Path, copy: Copy) -> None:
    folder = copy(minimal)
    path = folder / tiny.FILES[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert f"{len(whole) - 5} bytes, but the manifest says {len(whole)}" in _problems(folder)[0]
    path.write_bytes(b"x" + whole[1:])
    assert "altered; copy, download or export the bundle again" in _problems(folder)[0]
    path.unlink()
    assert f"{path} is missing" in _problems(folder)[0]
    path.mkdir()
    assert f"{path} is missing" in _problems(folder)[0]


def test_links_out_of_the_bundle_are_rejected(minimal: Path, copy: Copy, tmp_path: Path) -> None:
    folder = copy(minimal)
    path = folder / tiny.FILES[0]
    path.rename(tmp_path / "outside.onnx")
    path.symlink_to("../outside.onnx")
    assert "is a link that leaves the bundle" in _problems(folder)[0]
    path.unlink()
    path.symlink_to(path.name)
    assert "is missing" in _problems(folder)[0]
    tiny.edit_manifest(folder, lambda data: data["artifacts"][0].update(file="x" * 300))
    assert "is missing" in _problems(folder)[0]


def test_links_inside_the_bundle_and_into_the_hubs_cache_are_fine(minimal: Path, copy: Copy, tmp_path: Path) -> None:
    folder = copy(minimal)
    (folder / tiny.FILES[0]).rename(folder / "real.onnx")
    (folder / tiny.FILES[0]).symlink_to("real.onnx")
    assert _problems(folder) == []
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    shutil.copytree(minimal, snapshot)
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    assert _problems(snapshot) == []


def test_what_is_no_bundle_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="there is no folder"):
        coda_runtime.load(tmp_path / "nothing")
    with pytest.raises(BundleNotFoundError, match=r"has no manifest\.json"):
        coda_runtime.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleNotFoundError, match="is a file"):
        coda_runtime.load(str(tmp_path / "file"))
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleNotFoundError, match="cannot be read"):
        coda_runtime.load(tmp_path)


class TestCache:
    @pytest.fixture(autouse=True)
    def _settled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files count as old enough to remember, so that no test waits."""
        monkeypatch.setattr(sums, "_SETTLED_NS", -time.time_ns())

    @pytest.fixture
    def hashed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the files that were really read."""
        out: list[str] = []
        real = sums.hash_open
        monkeypatch.setattr(sums, "hash_open", lambda file: (out.append(Path(file.name).name), real(file))[1])
        return out

    def test_unchanged_files_are_hashed_once(self, sealed: Path, copy: Copy, hashed: list[str]) -> None:
        folder = copy(sealed)
        Bundle.open(folder).verify()
        assert sorted(hashed) == sorted(tiny.FILES)
        Bundle.open(folder).verify()
        assert len(hashed) == len(tiny.FILES)
        Bundle.open(folder).verify("always")
        assert len(hashed) == 2 * len(tiny.FILES)

    def test_a_change_that_keeps_size_and_time_is_found(self, sealed: Path, copy: Copy) -> None:
        folder = copy(sealed)
        Bundle.open(folder).verify()
        path = folder / tiny.FILES[0]
        before = path.stat()
        while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock of the file system has ticked
            path.write_bytes(path.read_bytes()[:-1] + b"!")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(ChecksumError, match="altered"):
            Bundle.open(folder).verify()

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"x": 1}'])
    def test_a_broken_cache_is_ignored(self, sealed: Path, hashed: list[str], content: bytes) -> None:
        cache = remembered.cache_path()
        cache.parent.mkdir()
        cache.write_bytes(content)
        Bundle.open(sealed).verify()
        assert len(hashed) == len(tiny.FILES)
        assert isinstance(json.loads(cache.read_bytes()), dict)

    def test_an_unwritable_cache_is_no_error(self, sealed: Path, hashed: list[str]) -> None:
        remembered.cache_path().parent.write_text("a file where the folder should be")
        Bundle.open(sealed).verify()
        Bundle.open(sealed).verify()
        assert len(hashed) == 2 * len(tiny.FILES)


def test_the_cache_is_parsed_once_as_long_as_it_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has up to a megabyte, and every file of a bundle asks for its own line."""
    parsed, parse = 0, json.loads

    def counted(text: bytes) -> object:
        nonlocal parsed
        parsed += 1
        return parse(text)

    monkeypatch.setattr(remembered.json, "loads", counted)
    remembered.cache_path().parent.mkdir(mode=0o700)
    for number, name in enumerate(("/first", "/another"), 1):
        remembered.cache_path().write_text(json.dumps({name: [1, 2, 3, 4, "a" * 64]}))
        for _ in range(3):
            assert list(remembered._read()) == [name]
            remembered._read().clear()
        assert parsed == number


def test_a_file_that_just_changed_is_not_remembered(sealed: Path, copy: Copy) -> None:
    Bundle.open(copy(sealed)).verify()
    assert not remembered.cache_path().exists()


def test_verify_takes_only_its_two_words(sealed: Path) -> None:
    with pytest.raises(coda_runtime.InputError, match="verify is 'never'"):
        coda_runtime.load(sealed, verify="never")  # type: ignore[arg-type]


class TestSeal:
    def test_it_returns_what_it_wrote(self, tmp_path: Path) -> None:
        artifacts = tiny.write_files(tmp_path)
        sealed = seal(tmp_path, coda_runtime.Manifest(tiny.SPEC, tuple(artifacts)))
        assert sealed.checksums == "SHA256SUMS"
        assert Bundle.open(tmp_path).manifest == sealed

    def test_it_rejects_what_would_not_load(self, tmp_path: Path) -> None:
        artifacts = tiny.write_files(tmp_path)
        spec = dataclasses.replace(tiny.SPEC, num_tokens=3)
        with pytest.raises(coda_runtime.ManifestError, match="21 tokens"):
            seal(tmp_path, coda_runtime.Manifest(spec, tuple(artifacts)))
        (tmp_path / tiny.FILES[1]).write_bytes(b"")
        with pytest.raises(ChecksumError, match="0 bytes"):
            seal(tmp_path, coda_runtime.Manifest(tiny.SPEC, tuple(artifacts)))
        artifacts[1] = tiny.describe(tmp_path, tiny.FILES[1])
        with pytest.raises(ArtifactError, match="is not an ONNX model: it is empty"):
            seal(tmp_path, coda_runtime.Manifest(tiny.SPEC, tuple(artifacts)))
        assert not (tmp_path / "manifest.json").exists()

    def test_killed_between_its_two_renames_it_can_be_finished(self, sealed: Path, copy: Copy) -> None:
        folder = copy(sealed)
        code = f"""
import dataclasses, os, pathlib
from coda_runtime.format.bundle import Bundle, seal
replace = pathlib.Path.replace
def until_the_manifest(path, target):  # on a slow machine the cache of checksums is written before
    replace(path, target)
    if target.name == "manifest.json":
        os._exit(9)
pathlib.Path.replace = until_the_manifest
seal({str(folder)!r}, dataclasses.replace(Bundle.open({str(folder)!r}).manifest, license="new"))
"""
        assert subprocess.run([sys.executable, "-c", code]).returncode == 9
        assert Bundle.open(folder).manifest.license == "new"
        with pytest.raises(ChecksumError, match=r"writing the two was interrupted; finish it: mv -- ") as caught:
            Bundle.open(folder).verify()
        subprocess.run(str(caught.value).rpartition("finish it: ")[2], shell=True, check=True)
        assert _problems(folder) == []
        assert sorted(path.name for path in folder.iterdir()) == sorted(ALL_FILES)

    def test_the_line_that_finishes_it_runs_nothing_else(self, sealed: Path, copy: Copy) -> None:
        """Who made the folder chose the name of what lies beside SHA256SUMS."""
        folder = copy(sealed)
        (folder / "SHA256SUMS").rename(folder / ".SHA256SUMS.x; touch ran #.part")
        (folder / "SHA256SUMS").write_bytes(sums.format_sums({"manifest.json": "0" * 64}))
        with pytest.raises(ChecksumError, match="finish it: mv ") as caught:
            Bundle.open(folder).verify()
        subprocess.run(str(caught.value).rpartition("finish it: ")[2], shell=True, check=True, cwd=folder)
        assert _problems(folder) == []
        assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "table",
    [np.zeros((3, 4), np.float32), np.zeros((16, 4)), np.array([None, {}]), "text"],
)
def test_a_value_table_of_another_kind_is_rejected(tmp_path: Path, table: object) -> None:
    artifacts = tiny.write_files(tmp_path)
    path = tmp_path / tiny.FILES[3]
    if isinstance(table, str):
        path.write_text(table)
    else:
        np.save(path, table, allow_pickle=True)  # type: ignore[arg-type]
    artifacts[3] = tiny.describe(tmp_path, tiny.FILES[3])
    seal(tmp_path, coda_runtime.Manifest(tiny.SPEC, tuple(artifacts)))
    with pytest.raises(ArtifactError, match=r"codebook\.fp32\.npy"):
        coda_runtime.load(tmp_path)
