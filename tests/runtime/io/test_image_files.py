"""The one finder of images: names, order, links, and what it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coda_runtime import ImageError
from coda_runtime.io.image_files import Entry, Kind, find_images, has_image_suffix, is_image, walk


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


def test_the_order_is_that_of_the_chunks_of_paths(tmp_path: Path) -> None:
    names = ["a/b/deep.webp", "a/two.JPG", "a-b/x.png", "a.png", "b.jpeg"]
    _touch(tmp_path, *reversed(names), "a/notes.txt")
    found = find_images(tmp_path).images
    assert found == names
    assert found == [path.relative_to(tmp_path).as_posix() for path in sorted(map(tmp_path.joinpath, names))]


def test_what_is_left_out_is_reported_by_kind(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", ".trash/b.jpg", "in/._b.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "device.png").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.png")
    found = find_images(tmp_path)
    assert found.images == ["a.jpg"]
    assert (found.hidden, found.broken) == (["._a.jpg", "in/._b.png"], ["gone.png"])
    assert found.special == ["device.png", "pipe.png"]
    assert found.left_out() == " (left out: 2 hidden, 1 links to nowhere, 2 pipes or devices)"
    assert find_images(_touch(tmp_path / "other", "a.jpg")).left_out() == ""


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
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(ImageError, match="self cannot be searched"):
        find_images(tmp_path)
