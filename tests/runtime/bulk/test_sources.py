"""What SRC may be: listed in a fixed order, read in pieces, refused where it cannot be read at all."""

from __future__ import annotations

import errno
import functools
import gzip
import http.server
import io
import os
import pickle
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import ImageError, InputError, MissingDependencyError
from coda_runtime.bulk.sources import SourceOptions, fetching, open_source
from coda_runtime.bulk.sources import tars as tar_source
from coda_runtime.bulk.sources.fetching import read_local, read_remote
from coda_runtime.bulk.tars import expand_braces
from coda_runtime.io.remote import redacted
from tests.runtime import tiny
from tests.runtime.bulk.conftest import png, save_images, save_tar

PNGS = [png(image) for image in tiny.photos(12)]


def read(where: object, **options: Any) -> tuple[list[str], list[bytes | ImageError], pa.Table]:
    """Keys, files and listing, read by a reader that went through pickle, in two pieces."""
    source = open_source(str(where), SourceOptions(**options))
    listing = source.listing()
    reader = pickle.loads(pickle.dumps(source.reader(source.files())))
    middle = listing.num_rows // 2
    files = [*reader.read(listing.slice(0, middle)), *reader.read(listing.slice(middle))]
    return listing.column("path").to_pylist(), files, listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "b" / "deep").mkdir(parents=True)
    for number, name in enumerate(["b/deep/2.png", "a.jpg", "b/1.PNG", "z.webp"]):
        (folder / name).write_bytes(PNGS[number])
    (folder / "b" / "._1.png").write_bytes(b"")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(PNGS[5])
    (folder / "notes.txt").write_text("no image")
    (folder / "link").symlink_to(folder / "b")
    (folder / "b" / "loop").symlink_to(folder)
    return folder


KEYS = ["a.jpg", "b/1.PNG", "b/deep/2.png", "z.webp"]


def test_folder(folder: Path) -> None:
    (folder / "link").unlink()
    keys, files, listing = read(folder, label="folder")
    assert keys == KEYS
    assert files == [PNGS[1], PNGS[2], PNGS[0], PNGS[3]]
    assert listing.column("label").to_pylist() == [None, "b", "deep", None]


def test_each_file_once_through_links(folder: Path) -> None:
    assert len(read(folder)[0]) == 4


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.jpg", ["a.jpg"]),
        ("*.jpg", ["a.jpg"]),
        ("b/*.PNG", ["1.PNG"]),
        ("b/**/*.png", ["deep/2.png"]),
        ("{a.jpg,b/1.PNG}", ["a.jpg", "b/1.PNG"]),
        ("b/{1.PNG,deep/*.png}", ["1.PNG", "deep/2.png"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    (folder / "b" / "loop").unlink()
    assert read(folder / pattern)[0] == expected
    assert read(f"file://{folder}/{pattern}")[0] == expected


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(PNGS[0])
    keys, files, _ = read(tmp_path)
    assert (keys, files) == (["caf\ufffd.png"], [PNGS[0]])


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "whole.png").write_bytes(PNGS[0])
    _, files, _ = read(tmp_path)
    assert [str(file) for file in files[:2]] == [
        "there is no image 'gone.png'; check the path",
        "'pipe.png' is not a regular file; leave it out",
    ]


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """Neither as one of the others that are asked for a byte, nor as a .tar file."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(InputError, match="nor can other images"):
        read(tmp_path)
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(InputError, match=r"a\.tar cannot be read .*it is not a regular file"):
        read(tmp_path / "a.tar")


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(["train-000.tar", "train-001.tar", "more/extra.tar"]):
        first, second = PNGS[2 * number : 2 * number + 2]
        members = {"x/0.png": first, "x/0.cls": b"7\n", "._x.png": b"", "1.seg.png": second, "1.txt": b"words"}
        save_tar(folder / name, members)
    return folder


def test_tars(tars: Path) -> None:
    keys, files, listing = read(tars, label=".cls")
    names = ["more/extra.tar", "train-000.tar", "train-001.tar"]
    assert keys == [f"{name}/{member}" for name in names for member in ("x/0.png", "1.seg.png")]
    assert files == [PNGS[4], PNGS[5], PNGS[0], PNGS[1], PNGS[2], PNGS[3]]
    assert listing.column("label").to_pylist() == ["7", None] * 3
    assert read(tars / "train-{000..001}.tar")[0] == keys[2:]
    assert read(tars / "train-*.tar")[1] == files[2:]


def special_tar(path: Path, form: int = tarfile.PAX_FORMAT) -> None:
    """A tar file with every kind of member that is not simply an image."""
    with tarfile.open(path, "w", format=form) as archive:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, link
            archive.addfile(member, io.BytesIO(data))

        add("x/first.png", PNGS[0])
        add("x/first.cls", b"3")
        add("y/again.png", kind=tarfile.LNKTYPE, link="x/first.png")
        add("y/again.cls", kind=tarfile.LNKTYPE, link="x/first.cls")
        add("lost.png", kind=tarfile.LNKTYPE, link="elsewhere.png")
        add("soft.png", kind=tarfile.SYMTYPE, link="x/first.png")
        add("pipe.png", kind=tarfile.FIFOTYPE)
        add("photo.heic", b"heic")
        add(".hidden.png", PNGS[1])
        add("._first.png", b"")


def test_members_that_are_linked_or_cannot_be_read(tmp_path: Path) -> None:
    special_tar(tmp_path / "a.tar")
    source = open_source(str(tmp_path / "a.tar"), SourceOptions("cls"))
    listing = source.listing()
    assert listing.column("path").to_pylist() == ["a.tar/x/first.png", "a.tar/y/again.png"]
    assert listing.column("label").to_pylist() == ["3", "3"]
    assert list(source.reader(source.files()).read(listing)) == [PNGS[0]] * 2
    assert {kind: told["count"] for kind, told in source.omitted.to_json().items()} == {
        ".heic": 1,
        "hidden file": 1,
        "link to what is not in the archive": 1,
        "special file": 1,
        "symbolic link": 1,
    }
    assert f"{tmp_path}/a.tar/photo.heic" in str(source.omitted)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_sparse_member_is_left_out_and_the_rest_is_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "0.png").write_bytes(PNGS[0])
    (tmp_path / "1.png").write_bytes(PNGS[1])
    with (tmp_path / "big.png").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    command = ["tar", "--sparse", f"--format={form}", "-cf", "a.tar", "0.png", "big.png", "1.png"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20
    source = open_source(str(tmp_path / "a.tar"), SourceOptions())
    assert list(source.reader(source.files()).read(source.listing())) == PNGS[:2]
    assert str(source.omitted) == f"1 sparse file ({tmp_path}/a.tar/big.png)"


def test_labels_beside_names_with_dots(tmp_path: Path) -> None:
    members = {"img.v1.1.jpg": PNGS[0], "img.v1.1.cls": b"7", "img.v1.2.jpg": PNGS[1], "img.v1.2.cls": b"8"}
    save_tar(tmp_path / "a.tar", members | {"x.y/9.seg.png": PNGS[2], "x.y/9.cls": b"9"})
    assert read(tmp_path / "a.tar", label="cls")[2].column("label").to_pylist() == ["7", "8", "9"]


def test_a_label_that_no_image_has(tmp_path: Path) -> None:
    save_tar(tmp_path / "a.tar", {"0.png": PNGS[0], "0.cls": b"7"})
    with pytest.raises(InputError, match=r"label is 'clss', and no image of a\.tar has a file .* end in \.cls, \.png:"):
        read(tmp_path / "a.tar", label="clss")
    save_tar(tmp_path / "b.tar", {"0.png": PNGS[0], "0.cls": bytes(5000), "1.png": PNGS[1], "1.cls": b"1"})
    source = open_source(str(tmp_path / "b.tar"), SourceOptions("cls"))
    assert source.listing().column("label").to_pylist() == [None, "1"]
    assert "1 oversized label (" in str(source.omitted)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(PNGS[0])
    with pytest.raises(InputError, match=r'label is "folder", and no image lies in a folder of .*flat; leave out'):
        read(tmp_path / "flat", label="folder")


def test_what_a_folder_has_beside_images(folder: Path) -> None:
    (folder / "photo.heic").write_bytes(b"")
    (folder / "b.tar.gz").write_bytes(b"")
    (folder / "train").symlink_to("/mnt/nowhere")
    (folder / "out").mkdir()
    (folder / "out" / "x.heic").write_bytes(b"")
    source = open_source(str(folder), SourceOptions(), leave_out=str(folder / "out"))
    told = "1 .heic file (photo.heic); 1 .tar.gz file (b.tar.gz); 1 broken link (train); 1 hidden folder (.hidden)"
    assert str(source.omitted) == told
    assert str(open_source(f"file://{folder}/*.*", SourceOptions()).omitted) == told.rpartition("; 1 broken")[0]


def test_tars_that_change(tars: Path) -> None:
    source = open_source(str(tars), SourceOptions())
    listing, files = source.listing(), source.files()
    save_tar(tars / "train-001.tar", {"other.png": PNGS[0]})
    # A run that goes on, and one that is started again.
    for now in (source, open_source(str(tars), SourceOptions())):
        with pytest.raises(InputError, match=r"train-001\.tar has changed since the plan was made"):
            list(now.reader(files).read(listing))
    (tars / "train-001.tar").unlink()
    with pytest.raises(InputError, match=r"train-001\.tar cannot be opened"):
        list(open_source(str(tars), SourceOptions()).reader(files).read(listing))


def test_members_of_absurd_size(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    max_bytes = min(map(len, PNGS[:2]))
    for module in (fetching, tar_source):
        monkeypatch.setattr(module, "MAX_BYTES", max_bytes)
    _, files, _ = read(tars / "train-000.tar")
    assert [isinstance(file, ImageError) for file in files] == [len(data) > max_bytes for data in PNGS[:2]]
    assert f"more than the limit of {max_bytes:,}; leave it out" in "".join(map(str, files))


def test_tars_that_are_none(tars: Path) -> None:
    whole = (tars / "train-000.tar").read_bytes()
    (tars / "train-000.tar").write_bytes(whole[:700])
    with pytest.raises(InputError, match=r"is truncated inside 'x/0\.png'; copy or download it again"):
        read(tars)
    (tars / "train-000.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(InputError, match=r"is compressed with gzip.*decompress it to a plain \.tar"):
        read(tars)


def test_compressed_tars_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(InputError, match=r"a\.tar\.gz is a compressed tar file.*decompress it to \.tar"):
        read(tmp_path)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    for number in range(2):
        some = PNGS[5 * number : 5 * number + 5]
        columns = {
            "image": pa.array([{"bytes": data, "path": None} for data in some]),
            "jpg": pa.array(some, pa.large_binary()),
            "label": pa.array(range(5), pa.int64()),
            "name": [f"n{number}{row}" for row in range(5)],
        }
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=2)
    return folder


def test_parquet(tables: Path) -> None:
    keys, files, listing = read(tables, label="label")
    assert keys == [f"{number}.parquet#{row}" for number in range(2) for row in range(5)]
    assert files == PNGS[:10]
    assert listing.column("label").to_pylist() == [*range(5), *range(5)]
    keys, files, listing = read(tables / "1.parquet", image_column="jpg", key_column="name", label="name")
    assert (keys, files) == (["n10", "n11", "n12", "n13", "n14"], PNGS[5:10])
    assert listing.column("label").to_pylist() == keys


@pytest.mark.parametrize(
    ("labels", "kind", "listed"),
    [
        (pa.array([2**63, 2**64 - 1, None], pa.uint64()), pa.uint64(), [2**63, 2**64 - 1, None]),
        (pa.array([1, 2, None], pa.uint64()), pa.int64(), [1, 2, None]),
        (pa.array([-(2**63), 2**63 - 1, 0], pa.int64()), pa.int64(), [-(2**63), 2**63 - 1, 0]),
        (pa.array([None] * 3, pa.int64()), pa.string(), [None] * 3),
        (pa.array([True, False, None]), pa.string(), ["True", "False", None]),
    ],
)
def test_labels_of_every_whole_number(tmp_path: Path, labels: pa.Array, kind: pa.DataType, listed: list[Any]) -> None:
    pq.write_table(pa.table({"image": pa.array(PNGS[:3]), "label": labels}), tmp_path / "a.parquet")
    found = read(tmp_path, label="label")[2].column("label")
    assert (found.type, found.to_pylist()) == (kind, listed)


def test_labels_that_no_whole_number_type_holds_are_text(tmp_path: Path) -> None:
    for name, labels in (("a", pa.array([-1], pa.int64())), ("b", pa.array([2**64 - 1], pa.uint64()))):
        pq.write_table(pa.table({"image": pa.array(PNGS[:1]), "label": labels}), tmp_path / f"{name}.parquet")
    assert read(tmp_path, label="label")[2].column("label").to_pylist() == ["-1", str(2**64 - 1)]


def test_parquet_without_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([PNGS[0], None])}), tmp_path / "a.parquet")
    _, files, _ = read(tmp_path)
    assert files[0] == PNGS[0]
    assert "has no bytes in the column 'image'" in str(files[1])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image_column": "img"}, "has no column 'img', only image, jpg, label, name; name one with --image-column"),
        ({"key_column": "key"}, "has no column 'key', .*; name one with --key-column"),
        ({"image_column": "label"}, "the column 'label' is int64; expected encoded images"),
        ({"label": "jpg"}, "the column 'jpg' is neither text nor whole numbers"),
    ],
)
def test_wrong_columns(tables: Path, options: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(tables, **options)


def test_a_damaged_parquet_file(tables: Path) -> None:
    (tables / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"1\.parquet is not a Parquet file, or is damaged"):
        read(tables)


def test_damaged_pages_of_a_parquet_file(tables: Path) -> None:
    whole = bytearray((tables / "1.parquet").read_bytes())
    whole[4:2000] = bytes(1996)
    (tables / "1.parquet").write_bytes(whole)
    with pytest.raises(InputError, match=r"1\.parquet is not a Parquet file, or is damaged"):
        read(tables)


def test_nothing_and_two_kinds(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no images; expected files ending in \.bmp .*\.tar or \.parquet"):
        read(tmp_path / "empty")
    save_tar(folder / "a.tar", {})
    with pytest.raises(InputError, match=r"has 4 images, 1 \.tar and 0 \.parquet files; say which are meant"):
        read(folder)
    with pytest.raises(InputError, match="nothing matches"):
        read(folder / "{0..3}.png")


def test_what_lies_in_the_destination_is_no_source(folder: Path) -> None:
    (folder / "b" / "loop").unlink()
    source = open_source(str(folder), SourceOptions(), leave_out=str(folder / "b"))
    assert "b/1.PNG" not in source.listing().column("path").to_pylist()


def test_urls_that_cannot_be_opened() -> None:
    with pytest.raises(
        MissingDependencyError, match="needs adlfs, which is not installed; install it: pip install adlfs"
    ):
        read("abfs://container/photos")
    with pytest.raises(InputError, match=r"'nothing://a' cannot be opened .*expected a local path or a URL"):
        read("nothing://a")


asked: list[str] = []


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """An HTTP server of a folder with pictures."""
    save_images(tmp_path / "site", 5)
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_http(site: str, tmp_path: Path) -> None:
    keys, files, _ = read(f"{site}/")
    assert keys == ["g0/000.png", "g0/003.png", "g1/001.png", "g1/004.png", "g2/002.png"]
    assert files == [(tmp_path / "site" / key).read_bytes() for key in keys]
    asked.clear()
    source = open_source(f"{site}/g1/*.png", SourceOptions())
    assert source.listing().column("path").to_pylist() == ["001.png", "004.png"]
    assert not [path for path in asked if path.endswith("1.png")]  # listing fetches no image


def test_tars_on_a_server_without_ranges(site: str, tmp_path: Path) -> None:
    """It sends whole files whatever range is asked for: one error, and no image is said to be cut."""
    save_tar(tmp_path / "site" / "small.tar", {"0.png": PNGS[0]})
    source = open_source(f"{site}/small.tar", SourceOptions())
    listing = source.listing()
    told = r"the server of http://.*/small\.tar does not answer with ranges of bytes.* copy the files to a local disk"
    with pytest.raises(InputError, match=told):
        list(source.reader(source.files()).read(listing))
    save_tar(tmp_path / "site" / "large.tar", {"0.png": PNGS[0], "1.txt": bytes(40 << 20), "2.png": PNGS[1]})
    with pytest.raises(InputError, match="does not answer with ranges of bytes"):
        open_source(f"{site}/large.tar", SourceOptions()).listing()


def test_a_local_source_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for every file is one error, and for one file it is that image's."""
    for number in range(20):
        (tmp_path / f"{number:02d}.png").write_bytes(PNGS[0])
    source = open_source(str(tmp_path), SourceOptions())
    listing, reader = source.listing(), source.reader(source.files())
    original = fetching.open_regular
    broken = {"05.png"}

    def fail(path: str) -> io.BufferedReader:
        if not broken or Path(path).name in broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(path)

    monkeypatch.setattr(fetching, "open_regular", fail)
    files = list(reader.read(listing))
    assert [isinstance(file, ImageError) for file in files] == [number == 5 for number in range(20)]
    broken.clear()
    with pytest.raises(
        InputError, match=r"cannot be read now \(Input/output error\), nor can other images; check the disk"
    ):
        list(reader.read(listing))


class Failing:
    """A remote file system that fails a few times, then serves; the memory of what was asked is real."""

    protocol = ("failing",)

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error = failures, error

    def cat_ranges(self, paths: list[str], starts: Any, ends: Any, on_error: str) -> list[bytes | Exception]:
        self.failures -= 1
        return [self.error if self.failures >= 0 and path == "b" else b"data" for path in paths]


def test_a_remote_that_fails_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert read_remote(Failing(2, ConnectionError("reset")), ["a", "b"], ["a", "b"]) == [b"data"] * 2
    assert len(waited) == 2
    with pytest.raises(InputError, match=r"cannot be fetched \(ConnectionError: reset\).*run the same command again"):
        read_remote(Failing(3, ConnectionError("reset")), ["a", "b"], ["a", "b"])
    for error in (FileNotFoundError("b"), PermissionError("b")):
        first, second = read_remote(Failing(1, error), ["a", "b"], ["a", "b"])
        assert first == b"data"
        assert isinstance(second, ImageError)


def test_names_that_look_like_patterns() -> None:
    folder = fsspec.filesystem("memory")
    names = ["img1.png", "img[1].png", "x*y.png", "xzy.png", "{a,b}.png"]
    for name, data in zip(names, PNGS, strict=False):
        folder.pipe_file(f"/odd/{name}", data)
    try:
        keys, files, _ = read("memory://odd")
    finally:
        folder.rm("/odd", recursive=True)
    assert dict(zip(keys, files, strict=True)) == dict(zip(names, PNGS, strict=False))


def test_a_node_without_the_folder(folder: Path, tmp_path: Path) -> None:
    """One missing file is an error of that image; a folder that is not mounted must not make errors of all of them."""
    source = open_source(str(folder), SourceOptions())
    listing, reader = source.listing(), source.reader(source.files())
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(
        InputError, match=r"photos does not exist, or is empty, on the node .*mount it, and run the same"
    ):
        list(reader.read(listing))
    folder.mkdir()
    with pytest.raises(InputError, match="photos does not exist, or is empty"):
        list(reader.read(listing))
    (folder / "lost+found").mkdir()  # as on the mount point of an empty disk
    with pytest.raises(InputError, match=r"cannot be read now .*, nor can other images; .* run the same command again"):
        list(reader.read(listing))
    (folder / "z.webp").write_bytes(PNGS[3])
    *gone, there = reader.read(listing)
    assert all("there is no image" in str(file) for file in gone)
    assert there == PNGS[3]


def test_trouble_that_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(PNGS[0])

    def fail(number: int) -> None:
        def open_regular(_: str) -> io.BufferedReader:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fetching, "open_regular", open_regular)

    fail(errno.EMFILE)
    with pytest.raises(InputError, match=r"cannot be read now \(Too many open files\).*run the same command again"):
        read_local(str(tmp_path / "a.png"), "a.png", str(tmp_path))
    fail(errno.EIO)
    assert isinstance(read_local(str(tmp_path / "a.png"), "a.png", str(tmp_path)), ImageError)
    monkeypatch.undo()
    monkeypatch.setattr(fetching, "MAX_BYTES", 10)
    assert "more than the limit of 10" in str(read_local(str(tmp_path / "a.png"), "a.png", str(tmp_path)))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("/a?b", "/a?b"),
        ("https://me:secret@host/x/?sig=secret#secret", "https://host/x/"),
        ("https://host?sig=secret", "https://host"),
        ("zip://*.png::https://me:secret@host/x.zip?sig=secret", "zip://*.png::https://host/x.zip"),
        ("s3://key:secret@bucket/a?.tar", "s3://bucket/a?.tar"),
    ],
)
def test_secrets_are_not_printed(url: str, told: str) -> None:
    assert redacted(url) == told


@given(st.lists(st.sampled_from(["a", "-", "{1..3}", "{x,y}", "{08..10}", "{", "}", "*"]), max_size=6))
def test_braces(components: list[str]) -> None:
    known = {"{1..3}": 3, "{x,y}": 2, "{08..10}": 3}
    stray = any(component in "{}" for component in components)
    expanded = list(expand_braces("".join(components)))
    if not stray:
        count = 1
        for component in components:
            count *= known.get(component, 1)
        assert len(expanded) == len(set(expanded)) == count
        assert not any("{" in text for text in expanded)
    assert all(text.count("*") == components.count("*") for text in expanded)
