from __future__ import annotations

from pathlib import Path

import pytest

from coda_deploy.data import DataError, open_source
from coda_deploy.data.folder import FolderSource
from tests.deploy.data.sample_images import encode, photo, write_folder, write_tar


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("missing", "there is no file or folder 'missing'; check the path"),
        ("missing/*.tar", r"there is no shard 'missing/\*\.tar'; check"),
        ("empty", "the folder 'empty' is empty; expected images .*, .tar shards, or a dataset"),
        ("other", "the folder 'other' holds a.parquet, b.txt and the like .*; expected images"),
        ("other@train", "other is not a dataset that save_to_disk wrote and has no split 'train'"),
        ("other/b.txt", "b.txt is neither a .tar shard nor a .npy array"),
        ("single.png", "single.png is a single image; expected the folder"),
        ("shard.tar.gz", "shard.tar.gz is compressed .* decompress it to a plain .tar"),
        ("*.png", "'single.png', of .* is not a .tar shard; to read a folder of images, give its name"),
        ("http://host/a.tar", "is a URL, .* copy the shards to a local disk first"),
        ("s3://bucket/{000..012}.tar", "is a URL"),
        ("pipe:curl -s host", "is a URL"),
        ("new://x", "is a URL"),
        ("hf://datasets/owner/name", "a dataset on the Hub is named hf:owner/name"),
        ("hf:", "does not name a dataset; expected hf:owner/name"),
        ("hf:@train", "does not name a dataset"),
    ],
)
def test_what_cannot_be_opened_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("other/a.parquet", "other/b.txt", "shard.tar.gz"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "single.png").write_bytes(encode(photo()))
    with pytest.raises(DataError, match=match) as caught:
        open_source(where)
    assert "\n" not in str(caught.value)


def test_a_url_in_a_path_object_is_rejected_too() -> None:
    with pytest.raises(DataError, match="is a URL"):
        open_source(Path("https://host/a.tar"))


def test_images_come_before_shards_and_odd_names_are_names(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a[1]{2..3}@x", 2)
    write_tar(folder / "shard.tar", {"a.png": encode(photo())})
    assert isinstance(open_source(folder), FolderSource)
    (tmp_path / "b{1..2}").mkdir()
    assert len(open_source(write_tar(tmp_path / "b{1..2}" / "[x].tar", {"a.png": encode(photo())}))) == 1


def test_what_is_left_out_is_told_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", 2)
    write_tar(folder / "shard.tar", {"a.png": encode(photo()), "b.heic": b""})
    (folder / "c.heic").write_bytes(b"")
    (folder / "train").symlink_to("/mnt/nowhere")
    told: list[str] = []
    assert len(open_source(folder, told.append)) == 2
    assert [text.partition("; what")[0] for text in told] == [
        f"left out of {folder}: 1 .heic file (c.heic); 1 .tar file (shard.tar); 1 broken link (train)"
    ]
    assert len(open_source(folder / "shard.tar", told.append)) == 1
    assert f"1 .heic file ({folder}/shard.tar/b.heic)" in told[1]
    assert len(told) == 2
    (folder / "c.heic").unlink()
