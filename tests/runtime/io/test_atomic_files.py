from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from coda_runtime import OutputError
from coda_runtime.io.atomic_files import staged_file, staged_folder


def _tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else "/" for p in sorted(folder.rglob("*"))}


class Stop(BaseException):
    """Stands for an interruption."""


def _half(stage: AbstractContextManager[Path], name: str = "") -> None:
    """Write half of a result, then stop."""
    with stage as beside:
        (beside / name if name else beside).write_text("half")
        raise Stop


def _fill(stage: AbstractContextManager[Path], *names: str) -> None:
    with stage as beside:
        for name in names:
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_text("new")


def test_a_file_appears_when_all_is_done(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out.txt"
    with staged_file(target) as beside:
        beside.write_text("new")
        assert not target.exists()
    assert _tree(tmp_path) == {"a": "/", "a/b": "/", "a/b/out.txt": "new"}


def test_an_interrupted_file_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("old")
    for target in (tmp_path / "old.txt", tmp_path / "x" / "new.txt"):
        with pytest.raises(Stop):
            _half(staged_file(target))
    assert _tree(tmp_path) == {"old.txt": "old"}


def test_a_folder_appears_when_all_is_done(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out") as beside:
        (beside / "sub").mkdir()
        (beside / "sub" / "a").write_text("1")
    assert _tree(tmp_path) == {"out": "/", "out/sub": "/", "out/sub/a": "1"}
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("replace", [False, True])
def test_an_interrupted_folder_leaves_what_was_there(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    for target in (tmp_path / "out", tmp_path / "x" / "y"):
        with pytest.raises(Stop):
            _half(staged_folder(target, replace=replace), "a")
    assert _tree(tmp_path) == {"out": "/", "out/a": "old"}


def test_merging_keeps_other_files_and_replacing_does_not(tmp_path: Path) -> None:
    for replace, expected in ((False, {"a": "new", "b": "old"}), (True, {"a": "new"})):
        out = tmp_path / str(replace)
        out.mkdir()
        (out / "a").write_text("old")
        (out / "b").write_text("old")
        with staged_folder(out, replace=replace) as beside:
            (beside / "a").write_text("new")
        assert _tree(out) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["False", "True"]


def test_what_is_in_the_way_is_named_before_anything_moves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "c").write_text("old")
    for name in ("b", "c/d"):
        with pytest.raises(OutputError, match="in the way"):
            _fill(staged_folder(out), "a", name)
        assert _tree(tmp_path) == {"out": "/", "out/b": "/", "out/c": "old"}


def test_the_wrong_kind_of_target_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a folder; expected"), staged_file(tmp_path):
        pass
    with pytest.raises(OutputError, match="is a file; expected"), staged_folder(tmp_path / "file"):
        pass
    for stage in (staged_file, staged_folder):
        with pytest.raises(OutputError, match="cannot be written"), stage(tmp_path / "file" / "below"):
            pass
    assert _tree(tmp_path) == {"file": "x"}


def test_errors_about_other_files_are_not_taken_for_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "out"):
        (tmp_path / "nothing").read_text()
    with pytest.raises(OutputError, match="no room"), staged_file(tmp_path / "out"):
        raise OSError(28, "no room")
    assert _tree(tmp_path) == {}
