"""Commands never write over the images they read, through links, or over devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from coda_runtime.cli.app import cli
from coda_runtime.cli.sources import Source, collect, keep_apart, keep_existing, keep_file, keep_sources
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


def test_pictures_of_the_same_names_are_replaced_on_request_alone(tmp_path: Path) -> None:
    """Tokens of photos/cat.png, decoded into photos/, would take the photograph's place."""
    (tmp_path / "cat.png").write_bytes(b"a photograph")
    (tmp_path / "link.png").symlink_to("nowhere")
    keep_existing(tmp_path, ["dog.png"], force=False)
    keep_existing(tmp_path, ["cat.png"], force=True)
    with pytest.raises(InputError, match=r"holds 'cat\.png' already; choose another --out, or replace with --force"):
        keep_existing(tmp_path, ["dog.png", "cat.png"], force=False)
    with pytest.raises(InputError, match=r"holds 'link\.png' and 1 more of the results' names already"):
        keep_existing(tmp_path, ["link.png", "cat.png"], force=False)


def test_decode_and_reconstruct_keep_what_is_there(sealed: Path, photos: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    tokens = tmp_path / "tokens.npz"
    assert CliRunner().invoke(cli, ["encode", str(sealed), str(photos), "--out", str(tokens)]).exit_code == 0
    out = tmp_path / "out"
    for command, given, place in (("decode", tokens, photos), ("reconstruct", photos, out)):
        run = [command, str(sealed), str(given), "--out", str(place)]
        if command == "reconstruct":
            assert CliRunner().invoke(cli, run).exit_code == 0
        refused = CliRunner().invoke(cli, run)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "replace with --force" in refused.stderr
        assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    done = CliRunner().invoke(cli, ["decode", str(sealed), str(tokens), "--out", str(out), "--force"])
    assert done.exit_code == 0, done.stderr


def test_a_file_is_replaced_on_request_alone(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    for there in (None, file):
        keep_file(there, force=False)
    file.touch()  # as mktemp leaves it
    keep_file(file, force=False)
    file.write_text("results of last week")
    (tmp_path / "link.json").symlink_to(file)
    for named in (file, tmp_path / "link.json"):
        keep_file(named, force=True)
        with pytest.raises(InputError, match=r"json exists already; choose another --report, or replace it with --for"):
            keep_file(named, force=False, option="--report")


def test_encode_and_bench_keep_the_file_that_is_there(sealed: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for command in (
        ["encode", sealed, photos],
        ["bench", "run", sealed, "--images", photos],
        ["bench", "report", tmp_path / "none.json"],
    ):
        file.write_text("days of work")
        refused = CliRunner().invoke(cli, [*map(str, command), "--out", str(file)])
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert refused.stderr == f"error: {file} exists already; choose another --out, or replace it with --force\n"
        assert file.read_text() == "days of work"
    done = CliRunner().invoke(cli, ["encode", str(sealed), str(photos), "--out", str(file), "--force"])
    assert done.exit_code == 0, done.stderr
    assert file.read_bytes()[:2] == b"PK"


def test_reconstructions_never_join_the_images(
    sealed: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run would reconstruct them too."""
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    (photos / "0.png").rename(elsewhere / "0.png")
    (photos / "linked").symlink_to(elsewhere.parent)
    before = sorted(tmp_path.rglob("*"))
    for out in (photos / "new", photos / "more", photos, elsewhere / "new", photos / "linked" / "new"):
        refused = CliRunner().invoke(cli, ["reconstruct", str(sealed), str(photos), "--out", str(out)])
        assert refused.exit_code == 1, refused.stdout
        assert refused.stderr == (
            f"error: {out} is in a folder of the images, which the results would be among; choose another --out\n"
        )
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.chdir(photos)
    with pytest.raises(InputError, match="choose another --out"):
        keep_apart(Path("new"), [Path()], collect([Path()]))
    for given in ([photos / "1.png"], [photos / "more"], [photos / "1.png", elsewhere]):
        keep_apart(photos / "new", given, collect(given))
    keep_apart(tmp_path / "photos-again", [photos], collect([photos]))


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
