from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coda_deploy.data import DataError, open_source
from coda_deploy.data.folder import FolderSource
from coda_runtime import ImageError
from coda_runtime.images import fit
from tests.deploy.data.sample_images import encode, names, photo, pixels, write_folder


def test_every_image_is_found_at_any_depth_in_sorted_order(tmp_path: Path) -> None:
    kept = ["a/b/deep.webp", "a/two.JPG", "b.jpeg", "c.PNG", "d.jpg/inside.gif"]
    left = [".hidden.png", "._b.jpeg", ".git/x.png", "a/notes.txt", "a/labels.json"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    assert names(source) == [str(tmp_path / name) for name in kept]


def test_pixels_come_upright_and_in_rgb(tmp_path: Path) -> None:
    upright = photo()
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.concatenate([upright, np.zeros((*upright.shape[:2], 1), np.uint8)], axis=2)
    grey = Image.fromarray(upright).convert("L")
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "alpha.png").write_bytes(encode(alpha))
    (tmp_path / "deep.png").write_bytes(encode(np.asarray(grey).astype(np.uint16) * 256))
    (tmp_path / "grey.png").write_bytes(encode(grey))
    (tmp_path / "plain.png").write_bytes(encode(upright))
    (tmp_path / "turned.png").write_bytes(encode(turned, exif=exif))
    source = open_source(str(tmp_path))
    in_grey = np.asarray(grey.convert("RGB"))
    for index, expected in enumerate([np.full_like(upright, 255), in_grey, in_grey, upright, upright]):
        np.testing.assert_array_equal(pixels(source, index), expected, err_msg=source.name(index))


def test_jpegs_are_decoded_as_the_runtime_does(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(photo(), "JPEG"))
    source = open_source(tmp_path)
    np.testing.assert_array_equal(fit(source.image(0), 32), fit(tmp_path / "a.jpg", 32))


@pytest.mark.parametrize("content", [b"plain text\n", b"", encode(photo(), "JPEG")[:600], encode(photo())[:900]])
def test_bad_files_are_image_errors_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        open_source(tmp_path).image(0)


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", 2)
    root = write_folder(tmp_path / "root", 1)
    (root / "class").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "gone.png").symlink_to(tmp_path / "gone.png")
    source = open_source(root)
    assert names(source) == [str(root / name) for name in ("00.png", "class/00.png", "class/01.png", "gone.png")]
    with pytest.raises(ImageError, match=r"there is no image .*gone\.png"):
        source.image(3)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 1)
    os.mkfifo(tmp_path / "images" / "pipe.png")
    assert len(open_source(tmp_path / "images")) == 1


def test_names_that_are_not_utf8_can_be_read_and_printed(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9 \xe6\x97\xa5.png"
    with open(path, "wb") as file:  # noqa: PTH123 - a Path takes no bytes
        file.write(encode(photo()))
    source = open_source(tmp_path)
    assert source.name(0).encode().endswith("caf? 日.png".encode())
    np.testing.assert_array_equal(pixels(source, 0), photo())


def test_a_pickled_source_is_the_same(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path / "images", 3))
    copy = pickle.loads(pickle.dumps(source))
    assert names(copy) == names(source)
    np.testing.assert_array_equal(pixels(copy, 2), pixels(source, 2))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_closed_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match=r"closed cannot be searched \(Permission denied\)"):
        open_source(tmp_path)


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(DataError, match=r"\(left out: 1 broken link \(self\)\); expected images"):
        open_source(tmp_path)
