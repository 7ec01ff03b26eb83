"""The one finder of images: names, order, links, and what it leaves out."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from coda_runtime import ImageError
from coda_runtime.io.image_files import (
    SUFFIXES,
    UNREAD,
    Entry,
    Kind,
    find_images,
    has_image_suffix,
    is_hidden,
    is_image,
    walk,
)
from coda_runtime.io.omitted import Omitted


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_images_are_reported_by_their_names() -> None:
    assert all(map(is_image, ("a.jpg", "b/c.JPEG", "d.tar.png", "é/ü.webp")))
    assert not any(map(is_image, ("a.txt", "png", "._a.jpg", ".hidden/a.jpg", "a/.b/c.png", "a.jpg/b")))
    assert has_image_suffix("._a.jpg")


def test_hidden_is_asked_of_millions_of_members() -> None:
    """As a Path reads a name, and without making one, which takes far longer."""
    names = ["a.png", "./a.png", "a/./b.png", "a//b.png", "a/b.c/d.png", "/a/b.png", "", ".", "a/.", "a.", "../a.png"]
    names += [".a.png", "a/.b.png", ".a/b.png", "./.a", "a/..b", "a/...", "//.a", "a/.b/c/d.png", "._a.png"]
    for name in names:
        assert is_hidden(name) == any(part.startswith(".") for part in PurePosixPath(name).parts), name
    called: list[str] = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    is_hidden("a/b/c.png")
    sys.setprofile(None)
    assert called == ["is_hidden"]


def test_the_order_is_that_of_the_chunks_of_paths(tmp_path: Path) -> None:
    names = ["a/b/deep.webp", "a/two.JPG", "a-b/x.png", "a.png", "b.jpeg"]
    _touch(tmp_path, *reversed(names), "a/notes.txt")
    found = find_images(tmp_path).images
    assert found == names
    assert found == [path.relative_to(tmp_path).as_posix() for path in sorted(map(tmp_path.joinpath, names))]


def test_what_is_left_out_is_reported_by_kind(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", ".trash/b.jpg", "in/.b.png", "a.txt", "a.HEIC", "b.heic", "x.tar")
    _touch(tmp_path, *(f"many/{number}.jfif" for number in range(5)), "more.tar.gz")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "train").symlink_to("/mnt/a disk that is not there")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "through").symlink_to("a.jpg/b")
    (tmp_path / "device.png").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.png")
    found = find_images(tmp_path)
    assert found.images == ["a.jpg"]
    assert len(found.omitted) == 17
    assert found.left_out() == (
        " (left out: 2 .heic files (a.HEIC, b.heic); 5 .jfif files (many/0.jfif, many/1.jfif, many/2.jfif, ...); "
        "1 .tar file (x.tar); 1 .tar.gz file (more.tar.gz); 4 broken links (gone.png, self.png, through, ...); "
        "1 hidden file (in/.b.png); 1 hidden folder (.trash); 2 special files (device.png, pipe.png))"
    )
    assert find_images(_touch(tmp_path / "other", "a.jpg", "a.json")).left_out() == ""


def test_no_suffix_is_both_read_and_not() -> None:
    assert not SUFFIXES & UNREAD


def test_what_was_left_out_survives_json() -> None:
    omitted = Omitted()
    for number in range(5):
        omitted.add(".heic", os.fsdecode(b"\xe9%d.heic" % number))
    again = Omitted.from_json(json.loads(json.dumps(omitted.to_json())))
    assert str(again) == str(omitted) == "5 .heic files (\ufffd0.heic, \ufffd1.heic, \ufffd2.heic, ...)"
    again.update(omitted.to_json())
    assert (len(again), bool(Omitted()), Omitted().warning("x")) == (10, False, "")
    assert again.warning("photos").startswith("left out of photos: 10 .heic files (")


def test_linked_folders_are_searched_and_no_image_comes_twice(tmp_path: Path) -> None:
    root = _touch(tmp_path / "root", "real/a.png", "z.png")
    elsewhere = _touch(tmp_path / "elsewhere", "b.png", "deep/c.png")
    (root / "another").symlink_to(root / "real")  # sorted before it, and yet found under its own name
    (root / "first").symlink_to(elsewhere)
    (root / "second").symlink_to(elsewhere / "deep")
    (root / "up").symlink_to(root)
    (root / "real" / "loop").symlink_to("..")
    (elsewhere / "back").symlink_to(root)
    (root / "photo.png").symlink_to(elsewhere / "b.png")  # a link to a file is a file
    expected = ["first/b.png", "first/deep/c.png", "photo.png", "real/a.png", "z.png"]
    assert find_images(root).images == expected
    (tmp_path / "link").symlink_to(root)
    assert find_images(tmp_path / "link").images == expected


def test_a_link_into_a_hidden_folder_is_followed(tmp_path: Path) -> None:
    _touch(tmp_path, ".store/v1/a.png")
    (tmp_path / "current").symlink_to(".store/v1")
    assert find_images(tmp_path).images == ["current/a.png"]


def test_walk_tells_of_every_file(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar", "b/.c", "b/d.txt")
    assert list(walk(tmp_path)) == [
        Entry("a.tar", Kind.FILE),
        Entry("b/.c", Kind.HIDDEN),
        Entry("b/d.txt", Kind.FILE),
    ]


def test_where_it_may_not_search(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none cannot be searched \(No such file or directory\); check the path"):
        find_images(tmp_path / "none")


@pytest.mark.parametrize("name", ["", "locked"])
def test_a_folder_that_may_not_be_searched_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _touch(tmp_path, "a.png", "locked/b.png")
    scandir = os.scandir

    def scan(path: str) -> Any:
        if path == str(tmp_path / name).rstrip("/"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(
        ImageError, match=r"cannot be searched \(Permission denied\); check the path and its permissions"
    ):
        find_images(tmp_path)
