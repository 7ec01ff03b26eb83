"""Files appear in the destination whole or not at all, on this machine and by URL."""

from __future__ import annotations

from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from coda_runtime import InputError, OutputError
from coda_runtime.bulk.destination import Destination


def test_local(tmp_path: Path) -> None:
    for where in (str(tmp_path / "one"), f"file://{tmp_path}/two"):
        out = Destination(where)
        assert out.names() == []
        out.write("a", b"old")
        out.write("a", b"data")
        assert (out.names(), out.read("a"), out.size("a")) == (["a"], b"data", 4)
        assert out.local is not None
        with out.open("a") as file:
            file.seek(2)
            assert file.read() == b"ta"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    out = Destination(str(tmp_path / "out"))
    out.write("a", b"old")
    with pytest.raises(TypeError):
        out.write("a", "no bytes")  # type: ignore[arg-type]
    assert (out.names(), out.read("a")) == (["a"], b"old")


def test_a_remote_without_whole_uploads_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through fsspec's `dir`, which is not known to upload whole objects."""
    (tmp_path / "base").mkdir()
    out = Destination(f"dir::file://{tmp_path}/base")
    assert out.local is None
    out.write("a", b"old")
    out.write("a", b"data")
    assert (out.names(), out.read("a")) == (["a"], b"data")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(LocalFileSystem, "mv", fail)
    monkeypatch.setattr(LocalFileSystem, "mv_file", fail, raising=False)
    with pytest.raises(OutputError, match=r"cannot be written \(OSError: disk full\)"):
        out.write("a", b"other")
    assert out.read("a") == b"data"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file; expected the name of a folder"):
        Destination(str(tmp_path / "out"))


def test_a_run_that_is_rejected_leaves_the_lock_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both started at once, and saw no folder."""
    out, other = Destination(str(tmp_path / "out")), Destination(str(tmp_path / "out"))
    with out.held():
        with monkeypatch.context() as patch:
            patch.setattr(Path, "exists", lambda _: False)
            with pytest.raises(InputError, match="another run is writing to"), other.held():
                pass
        with pytest.raises(InputError, match="another run is writing to"), other.held():
            pass


def test_the_lock_leaves_nothing_of_a_run_that_did_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Destination(str(tmp_path / "out")).held():
        raise ZeroDivisionError
    assert not (tmp_path / "out").exists()
