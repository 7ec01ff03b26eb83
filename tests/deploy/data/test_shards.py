from __future__ import annotations

import io
import os
import pickle
import tarfile
import threading
import weakref
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_deploy.data import DataError, open_source, shards
from coda_deploy.data.shards import ShardSource, expand
from coda_runtime import ImageError
from tests.deploy.data.sample_images import encode, names, photo, pixels, write_tar


def _samples(first: int, count: int) -> dict[str, bytes]:
    out = {}
    for number in range(first, first + count):
        out[f"{number:04d}.png"] = encode(photo(number, 20, 24))
        out[f"{number:04d}.cls"] = b"7"
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of two images each."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        write_tar(folder / f"train-{number:03d}.tar", _samples(2 * number, 2))
    return folder


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("/train-001.tar", [2, 3]),
        ("/*.tar", [0, 1, 2, 3, 4, 5]),
        ("/train-{000..001}.tar", [0, 1, 2, 3]),
        ("/train-{002..001}.tar", [4, 5, 2, 3]),
        ("/train-00{2,0}.tar", [4, 5, 0, 1]),
        ("/train-{00,}{1..1}*.tar", None),
        ("/train-0{0..0}[02].tar", [0, 1, 4, 5]),
    ],
)
def test_every_way_to_name_shards(folder: Path, where: str, expected: list[int] | None) -> None:
    if expected is None:
        with pytest.raises(DataError, match=r"there is no shard '.*train-1\*\.tar', of .*check the path and the range"):
            open_source(f"{folder}{where}")
        return
    source = open_source(f"{folder}{where}")
    assert isinstance(source, ShardSource)
    assert names(source) == [f"{folder}/train-{number // 2:03d}.tar/{number:04d}.png" for number in expected]
    for index, number in enumerate(expected):
        np.testing.assert_array_equal(pixels(source, index), photo(number, 20, 24))


def test_braces_keep_their_width() -> None:
    with pytest.raises(DataError, match=r"there is no shard 'x/8\.tar'"):
        expand("x/{8..11}.tar")
    with pytest.raises(DataError, match=r"there is no shard 'x/008\.tar'"):
        expand("x/{008..11}.tar")


def test_a_huge_range_stops_at_the_first_missing_shard(folder: Path) -> None:
    with pytest.raises(DataError, match=r"train-003\.tar"):
        open_source(f"{folder}/train-{{000..999999999999}}.tar")


def test_only_image_members_count_whatever_the_archive_writes(tmp_path: Path) -> None:
    long = "deep/" * 40 + "long.png"  # beyond the 100 characters of a plain header
    members = {"./a.PNG": encode(photo(1)), "._a.PNG": b"x", "b.txt": b"text", long: encode(photo(2)), ".c/d.jpg": b""}
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        source = open_source(write_tar(tmp_path / f"{form}.tar", members, format=form))
        assert [name.partition(".tar/")[2] for name in names(source)] == ["./a.PNG", long]
        np.testing.assert_array_equal(pixels(source, 1), photo(2))


def test_folders_links_and_empty_members_in_an_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("folder.png", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE), ("empty.png", b"0")):
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member, io.BytesIO())
    source = open_source(tmp_path / "a.tar")
    assert names(source) == [f"{tmp_path}/a.tar/empty.png"]
    with pytest.raises(ImageError, match=r"a\.tar/empty\.png' is not an image"):
        source.image(0)


@settings(max_examples=60)
@given(data=st.data())
def test_a_cut_archive_is_rejected_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = write_tar(tmp_path_factory.mktemp("cut") / "whole.tar", _samples(0, 2))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))  # what follows is padding
    keep = data.draw(st.integers(0, end) | st.sampled_from(range(0, end, 512)))
    (path.parent / "cut.tar").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"cut\.tar.*again"):
        open_source(path.parent / "cut.tar")


@settings(max_examples=60)
# All but the checksum's own field, in which several spellings are one number.
@given(at=st.integers(0, 147) | st.integers(156, 511), value=st.integers(1, 255), member=st.integers(0, 3))
def test_a_damaged_header_is_rejected(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, member: int
) -> None:
    path = write_tar(tmp_path_factory.mktemp("damaged") / "a.tar", _samples(0, 2))
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[member].offset
    content = bytearray(path.read_bytes())
    content[offset + at] ^= value
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar"):
        open_source(path)


def test_several_archives_in_one_file_are_rejected(folder: Path) -> None:
    both = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    (folder / "both.tar").write_bytes(both)
    with pytest.raises(DataError, match=r"both\.tar has a damaged header at byte \d+, or is several tar files in one"):
        open_source(folder / "both.tar")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"x\.tar is not a tar file, or is damaged \(empty file\)"),
        (b"no tar at all\n" * 100, r"x\.tar is not a tar file"),
        (b"\x1f\x8b" + b"\0" * 1000, r"x\.tar is compressed with gzip.*decompress it"),
    ],
)
def test_what_is_no_archive_is_explained(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=match):
        open_source(tmp_path)


def test_archives_without_images_are_explained(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.txt": b"text"})
    with pytest.raises(DataError, match=r"a\.tar holds no images; expected members ending in \.bmp"):
        open_source(tmp_path)
    write_tar(tmp_path / "b.tar", {})
    with pytest.raises(DataError, match=r"a\.tar and 1 more shards hold no images"):
        open_source(tmp_path)


def test_more_shards_than_may_be_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref[shards._Shard]] = []

    @lru_cache(maxsize=1)
    def only_one(path: str, state: tuple[int, int], process: int) -> shards._Shard:
        shard = shards._Shard(path, state)
        opened.append(weakref.ref(shard))
        return shard

    monkeypatch.setattr(shards, "_opened", only_one)
    source = open_source(folder)
    for index in (0, 5, 2, 1, 4, 3):
        np.testing.assert_array_equal(pixels(source, index), photo(index, 20, 24))
        assert sum(shard() is not None for shard in opened) == 1
    assert len(opened) == 6


def test_threads_and_pickles_read_the_same(folder: Path) -> None:
    source = open_source(folder)
    copy = pickle.loads(pickle.dumps(source))
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(index for index in [0, 1] * 60 if (pixels(copy, index) != photo(index, 20, 24)).any())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_shard_that_changes_or_goes_ends_the_run(folder: Path) -> None:
    source = open_source(folder)
    write_tar(folder / "train-000.tar", _samples(50, 2))
    os.utime(folder / "train-000.tar", ns=(0, 0))
    with pytest.raises(DataError, match=r"train-000\.tar has changed since the run began"):
        source.image(0)
    (folder / "train-001.tar").unlink()
    with pytest.raises(DataError, match=r"train-001\.tar can no longer be opened \(No such file"):
        source.image(2)
