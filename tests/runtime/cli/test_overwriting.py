"""Commands never write over the images they read, through links, or over devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coda_runtime.cli.sources import Source, keep_sources
from coda_runtime.errors import InputError, OutputError
from coda_runtime.io.atomic_files import staged_file, staged_folder


def test_a_target_among_the_images_is_rejected(tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(image)
    keep_sources([Source(image, "cat.png")], [tmp_path / "dog.png"])
    for target in (image, tmp_path / "link.png"):
        with pytest.raises(InputError, match="would overwrite it; choose another --out"):
            keep_sources([Source(image, "cat.png")], [target])


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="device or a pipe"), staged_file(pipe):
        pass
    assert pipe.is_fifo()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with staged_folder(tmp_path / "link", replace=True) as folder:
        (folder / "new").write_text("new")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    with staged_file(tmp_path / "file") as beside:
        beside.write_text("written")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["new"]
    assert (tmp_path / "target").read_text() == "written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "real", "target"]
