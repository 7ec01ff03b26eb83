"""Files that are exchanged while a bundle loads: what runs is what was checked."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coda_runtime
from coda_runtime import ChecksumError
from coda_runtime.backends import LoadOptions, Session
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.codes.search_tables import SearchTables
from coda_runtime.format import checksums
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.format.checksums import Verify
from coda_runtime.format.manifest import Artifact
from coda_runtime.parity.saved import numpy_quantizer
from tests.runtime import tiny

Copy = Callable[[Path], Path]


def altered(data: bytes) -> bytes:
    """Return as many bytes with one bit other, far behind any header."""
    at = len(data) - 2
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def exchange(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.other")
    beside.write_bytes(data)
    beside.replace(path)


@pytest.fixture
def after_verify(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something done right after a bundle was verified, before anything of it is loaded."""

    def arrange(act: Callable[[], None]) -> None:
        real = Bundle.verify

        def verify(self: Bundle, *args: Any, **options: Any) -> None:
            real(self, *args, **options)
            act()

        monkeypatch.setattr(Bundle, "verify", verify)

    return arrange


@pytest.mark.parametrize("mode", ["always", "cached"])
@pytest.mark.parametrize("name", tiny.FILES)
def test_a_file_exchanged_after_the_check_is_not_loaded(
    sealed: Path,
    copy: Copy,
    after_verify: Callable[[Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    name: str,
) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_NS", -(2**63))  # remembered at once
    folder = copy(sealed)
    other = altered((folder / name).read_bytes())
    after_verify(lambda: exchange(folder / name, other))
    with pytest.raises(ChecksumError, match=rf"{name} has SHA-256 .*, but the manifest says .*export the bundle again"):
        coda_runtime.load(folder, verify=mode)


def test_always_believes_no_times(
    sealed: Path, copy: Copy, after_verify: Callable[[Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file written in place, by a mapping say, may keep its times and its inode."""
    folder = copy(sealed)
    name = tiny.FILES[-1]
    other = altered((folder / name).read_bytes())
    monkeypatch.setattr(checksums, "_cache_key", lambda _: [0, 0, 0, 0])
    after_verify(lambda: exchange(folder / name, other))
    with pytest.raises(ChecksumError):
        coda_runtime.load(folder, verify="always")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_file_exchanged_by_a_pipe_does_not_hang(
    sealed: Path, copy: Copy, after_verify: Callable[[Callable[[], None]], None]
) -> None:
    folder = copy(sealed)
    path = folder / tiny.FILES[-1]

    def to_a_pipe() -> None:
        path.unlink()
        os.mkfifo(path)

    after_verify(to_a_pipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bundle, "path", lambda self, artifact: self.folder / artifact.file)  # exchanged after that too
        with pytest.raises(ChecksumError, match="it is not a regular file"):
            coda_runtime.load(folder)


@contextmanager
def exchanging(path: Path, *contents: bytes) -> Iterator[None]:
    """Exchange a file for each of `contents` in turn, as fast as it goes."""
    stop = threading.Event()

    def run() -> None:
        turn = 0
        while not stop.wait(0.001):
            exchange(path, contents[turn % len(contents)])
            turn += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_whatever_is_exchanged_when_the_right_table_is_loaded_or_none(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    path = folder / tiny.FILES[-1]
    good = path.read_bytes()
    loaded = refused = 0
    with exchanging(path, good, altered(good)):
        while (loaded < 5 or refused < 5) and loaded + refused < 500:
            try:
                with coda_runtime.load(folder, verify="always") as tok:
                    np.testing.assert_array_equal(tok.codebook, tiny.TABLE)
                loaded += 1
            except ChecksumError:
                refused += 1
    assert loaded
    assert refused


def test_the_saved_tables_are_read_as_they_were_checked(sealed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sealed, tmp_path / "b"))
    table = np.ones((tiny.CODES, tiny.CHANNELS + 1), np.float32)
    SearchTables(table).save(folder / "search.fp32.npz")
    manifest = Bundle.open(folder).manifest
    made = tiny.describe(folder, "search.fp32.npz")
    seal(folder, type(manifest)(**{**vars(manifest), "artifacts": (*manifest.artifacts, made)}))
    bundle = Bundle.open(folder)
    bundle.verify("always")
    numpy_quantizer(bundle)
    SearchTables(table * 2).save(folder / "search.fp32.npz")
    with pytest.raises(ChecksumError, match=r"search\.fp32\.npz"):
        numpy_quantizer(bundle)


class ByPath(OnnxRuntimeBackend):
    """A backend of one's own that has not heard of `bundle.read`."""

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        unsealed = Bundle(bundle.folder, bundle.manifest, b"")
        return super().load(unsealed, artifact, options)


@pytest.mark.parametrize("verify", ["cached", "always"])
def test_each_file_is_checked_once_and_none_is_left_out(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    """A file that is loaded is hashed as it is read: before that too, loading took twice as long."""
    checked: list[str] = []

    def watch(name: str) -> None:
        function = getattr(checksums, name)

        def watched(path: Path, *arguments: Any, **options: Any) -> Any:
            assert options["verify"] == verify
            checked.append(path.name)
            return function(path, *arguments, **options)

        monkeypatch.setattr(checksums, name, watched)

    watch("check_file")
    watch("read_file")
    with coda_runtime.load(sealed, "cpu", verify=verify):
        pass
    assert sorted(checked) == sorted(artifact.file for artifact in Bundle.open(sealed).manifest.artifacts)


def test_a_backend_that_loads_by_path_gets_checked_files(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    file = next(folder.glob("encoder*.onnx"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ChecksumError, match="was altered"):
        coda_runtime.load(folder, "cpu", ByPath(), verify="always")
