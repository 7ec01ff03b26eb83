"""A real S3 interface as SRC and DST: odd keys, pages, denials and failures, a run that is killed there and resumed."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs", reason="the S3 file system is not installed")
pytest.importorskip("moto.server", reason="the stand-in for S3 is not installed")

import s3fs
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from coda_runtime import InputError
from coda_runtime.bulk import TokenFolder, tokenize
from coda_runtime.bulk.sources import SourceOptions, open_source
from tests.runtime import tiny
from tests.runtime.bulk.conftest import expected, png, save_images, save_tar
from tests.runtime.bulk.local_pipeline import without_ray

Answer = tuple[str, str]
DENIED: Answer = ("403 Forbidden", "AccessDenied")
EXPIRED: Answer = ("400 Bad Request", "ExpiredToken")
BUSY: Answer = ("503 Service Unavailable", "ServiceUnavailable")
IMAGES = 12


class Store:
    """A server of the S3 interface; `fault` may answer a GET or HEAD of a key in its place."""

    def __init__(self) -> None:
        self.fault: Callable[[str], Answer | None] = lambda _: None
        self.asked: list[str] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self, threaded=True)

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        path = environ["PATH_INFO"].encode("latin-1").decode()
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") and path.count("/") > 1:
            self.asked.append(path)
            if (answer := self.fault(path)) is not None:
                status, code = answer
                start(status, [("Content-Type", "application/xml")])
                return [f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()]
        return self._app(environ, start)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = Store()
    thread = threading.Thread(target=store.server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.server.port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MOTO_S3_DEFAULT_MAX_KEYS": "5",  # so that every listing has several pages
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("coda_runtime.bulk.sources.fetching._PAUSES", (0.1, 0.1))
    s3fs.S3FileSystem.clear_instance_cache()
    s3_backends.reset()
    s3fs.S3FileSystem().mkdir("bucket")
    yield store
    s3fs.S3FileSystem.clear_instance_cache()
    store.server.shutdown()
    thread.join()
    store.server.server_close()


@pytest.fixture
def photos(store: Store, tmp_path: Path) -> Path:
    """Pictures in folders with spaces and accents, and the same under s3://bucket/photos."""
    folder = tmp_path / "photos"
    save_images(folder, IMAGES)
    (folder / "g0").rename(folder / "été à la mer")
    (folder / "g1" / "001.png").rename(folder / "g1" / "a b+c %20 [1]*.png")
    s3fs.S3FileSystem().put(str(folder), "bucket/photos", recursive=True)
    return folder


def run(sealed: Path, **options: Any) -> Any:
    """A run without Ray, in a process that remembers no listing."""
    s3fs.S3FileSystem.clear_instance_cache()
    with without_ray():
        return tokenize(sealed, "s3://bucket/photos", "s3://bucket/my tokens", shard_size=4, chunk=2, **options)


def check(sealed: Path, photos: Path, without: tuple[str, ...] = ()) -> None:
    s3fs.S3FileSystem.clear_instance_cache()
    folder = TokenFolder("s3://bucket/my tokens")
    folder.verify()
    want = {path: ids for path, ids in expected(sealed, photos).items() if path not in without}
    assert {row["path"]: row["ids"].tolist() for row in folder} == want
    errors = s3fs.S3FileSystem().cat_file("bucket/my tokens/errors.jsonl").decode()
    assert tuple(json.loads(line)["path"] for line in errors.splitlines()) == without


class Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_and_resumed(sealed: Path, photos: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done >= 6:
            raise Killed

    with pytest.raises(Killed):
        run(sealed, report=kill)
    before = s3fs.S3FileSystem().ls("bucket/my tokens", refresh=True)
    done = run(sealed)
    assert (done.images, done.errors, done.shards) == (IMAGES, 0, 3)
    assert done.computed == IMAGES - 4 * len([name for name in before if name.endswith(".parquet")])
    check(sealed, photos)
    assert run(sealed).computed == 0


def test_one_image_that_is_denied_is_an_error_of_that_image(sealed: Path, photos: Path, store: Store) -> None:
    store.fault = lambda key: DENIED if key.endswith("/g2/005.png") else None
    done = run(sealed)
    assert (done.images, done.errors) == (IMAGES - 1, 1)
    store.fault = lambda _: None
    check(sealed, photos, ("g2/005.png",))


def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """None but coda asks again: the libraries would for half a minute."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.mark.parametrize("answer", [DENIED, EXPIRED, ("404 Not Found", "NoSuchBucket"), BUSY])
def test_a_source_that_fails_in_the_middle_is_one_error(
    sealed: Path, photos: Path, store: Store, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it answers from the fifth image on: no image is blamed, and the next run goes on."""
    one_try(monkeypatch)

    def fault(key: str) -> Answer | None:
        return answer if key.endswith(".png") and sum(asked.endswith(".png") for asked in store.asked) > 10 else None

    store.fault = fault
    with pytest.raises(InputError, match="run the same command again to continue"):
        run(sealed)
    store.fault = lambda _: None
    s3fs.S3FileSystem.clear_instance_cache()
    names = [name.rpartition("/")[2] for name in s3fs.S3FileSystem().ls("bucket/my tokens")]
    assert "manifest.json" not in names
    assert "errors.jsonl" not in names
    assert run(sealed).images == IMAGES
    check(sealed, photos)


def test_a_source_that_is_busy_for_a_while(
    sealed: Path, photos: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image is answered once by a failure, and the run asks again by itself."""
    refused: set[str] = set()

    def fault(key: str) -> Answer | None:
        if not key.endswith(".png") or key in refused:
            return None
        refused.add(key)
        return BUSY

    one_try(monkeypatch)
    store.fault = fault
    done = run(sealed)
    assert (done.images, done.errors) == (IMAGES, 0)
    assert len(refused) == IMAGES
    check(sealed, photos)


def test_tar_files(store: Store, tmp_path: Path) -> None:
    images = [png(image) for image in tiny.photos(4)]
    save_tar(tmp_path / "a.tar", {f"{number}.png": data for number, data in enumerate(images)} | {"0.cls": b"7"})
    s3fs.S3FileSystem().put_file(str(tmp_path / "a.tar"), "bucket/shards/à 1.tar")
    listed = open_source("s3://bucket/shards/*.tar", SourceOptions("cls"))
    listing, files = listed.listing(), listed.files()
    assert listing.column("path").to_pylist() == [f"à 1.tar/{number}.png" for number in range(4)]
    assert listing.column("label").to_pylist() == ["7", None, None, None]
    s3fs.S3FileSystem.clear_instance_cache()
    reader = open_source("s3://bucket/shards", SourceOptions("cls")).reader(files)
    assert list(reader.read(listing)) == images
    store.fault = lambda _: DENIED
    with pytest.raises(InputError, match=r"à 1\.tar cannot be|cannot be fetched"):
        list(reader.read(listing))


def test_a_bucket_that_is_not_there(store: Store, sealed: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder 's3://nowhere/photos'; check the path"):
        open_source("s3://nowhere/photos", SourceOptions())
