"""Runs in this process: exact after any interruption, refused where they do not belong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coda_runtime import ImageError, InputError, OutputError
from coda_runtime.bulk import TokenFolder, tokenize
from coda_runtime.bulk.destination import Destination
from coda_runtime.bulk.plan import read_plan
from coda_runtime.bulk.run import _own
from coda_runtime.cli import app
from tests.runtime import tiny
from tests.runtime.bulk.conftest import expected, found, png, save_images, save_tar
from tests.runtime.bulk.local_pipeline import Here, Killed, killed_at, without_ray
from tests.runtime.images import icc

IMAGES, BROKEN = 22, ("g0/010b.png", "g2/last.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_images(folder, IMAGES)
    for name in BROKEN:
        (folder / name).write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def ids(sealed: Path, images: Path) -> dict[str, list[int]]:
    return expected(sealed, images)


@pytest.fixture
def here() -> Iterator[Here]:
    with without_ray() as pipeline:
        yield pipeline


def test_result(sealed: Path, images: Path, ids: dict[str, list[int]], here: Here, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = tokenize(sealed, images, tmp_path / "out", shard_size=7, report=lambda *now: told.append(now))
    assert found(tmp_path / "out") == ids
    assert (done.images, done.errors, done.shards, done.computed) == (IMAGES, 2, 4, IMAGES + 2)
    assert done.tokens == IMAGES * tiny.TOKENS
    assert told[0] == (0, 24)
    assert told[-1] == (24, 24)
    shards = sorted((tmp_path / "out").glob("*.parquet"))
    assert [str(field.type) for field in pq.read_schema(shards[0])] == ["string", "list<element: int32>"]
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in shards) == IMAGES
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [error["path"] for error in errors] == list(BROKEN)
    assert all("not an image" in error["error"] for error in errors)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["images"], manifest["errors"], manifest["columns"]) == (IMAGES, 2, ["path", "ids"])
    assert [shard["images"] + shard["errors"] for shard in manifest["shards"]] == [7, 7, 7, 3]
    assert {part["part"] for part in manifest["made_by"]} == {"encoder", "quantizer"}


def test_again_does_nothing(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tokenize(sealed, images, out, shard_size=7)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    here.positions.clear()
    done = tokenize(sealed, images, out, shard_size=7)
    assert (done.computed, done.images, here.positions) == (0, IMAGES, [])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_shard_that_was_taken_away(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    """Until it is back, there is no manifest, which would say that all is there."""
    out = tmp_path / "out"
    tokenize(sealed, images, out, shard_size=7)
    (out / "shard-00001.parquet").unlink()
    told: list[bool] = []
    done = tokenize(sealed, images, out, shard_size=7, report=lambda *_: told.append((out / "manifest.json").exists()))
    assert (done.computed, any(told[1:])) == (7, False)
    TokenFolder(out).verify()


def test_what_waits_is_in_memory_of_our_own() -> None:
    table = pa.table({"ids": pa.array([[1, 2], [], [3]], pa.list_(pa.int32())), "error": [None, "no", None]})
    own = _own(table.slice(1))
    assert own == table.slice(1)
    theirs = {buffer.address for column in table.columns for buffer in column.chunk(0).buffers() if buffer}
    assert not theirs & {buffer.address for column in own.columns for buffer in column.chunk(0).buffers() if buffer}


@settings(max_examples=15)
@given(
    shard_size=st.integers(1, 30),
    chunk=st.integers(1, 9),
    kills=st.lists(st.integers(0, 20), max_size=4),
    seed=st.integers(0, 99),
)
def test_killed_anywhere(
    sealed: Path,
    images: Path,
    ids: dict[str, list[int]],
    tmp_path_factory: pytest.TempPathFactory,
    shard_size: int,
    chunk: int,
    kills: list[int],
    seed: int,
) -> None:
    """Each run dies at its n-th step, a result that came or a file to be written; the last one does not."""
    out = tmp_path_factory.mktemp("run") / "out"
    computed: list[int] = []
    for number, kill in enumerate([*kills, None]):
        pipeline = Here(seed + number, twice=True)
        there = {int(path.stem[6:]) for path in out.glob("*.parquet")}
        with without_ray(pipeline), killed_at(kill, out) as step:
            tokenize(sealed, images, out, shard_size=shard_size, chunk=chunk, report=step)
        computed += pipeline.positions
        assert not there & {position // shard_size for position in pipeline.positions}
    tokenize(sealed, images, out, shard_size=shard_size)
    assert found(out) == ids
    assert set(computed) == set(range(IMAGES + 2))
    assert len(list(out.glob("*.parquet"))) == -(-(IMAGES + 2) // shard_size)
    assert not list(out.glob("*.part"))
    assert [json.loads(line)["path"] for line in (out / "errors.jsonl").read_text().splitlines()] == list(BROKEN)
    TokenFolder(out).verify()
    shutil.rmtree(out.parent)


def test_strict(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ImageError, match=r"'g\d/\w+\.png' is not an image"):
        tokenize(sealed, images, out, shard_size=4, strict=True)
    assert not (out / "manifest.json").exists()
    tokenize(sealed, images, out, shard_size=4)
    with pytest.raises(ImageError, match=r"'g0/010b\.png' is not an image .* \(in shard-0000\d\.parquet"):
        tokenize(sealed, images, out, shard_size=4, strict=True)


def test_only_unreadable_images(sealed: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    done = tokenize(sealed, tmp_path / "photos", tmp_path / "out")
    assert (done.images, done.errors, done.shards) == (0, 1, 1)
    assert found(tmp_path / "out") == {}
    assert len(TokenFolder(tmp_path / "out")) == 0


def test_columns(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    tokenize(sealed, images, tmp_path / "out", label="folder", original_size=True)
    rows = list(TokenFolder(tmp_path / "out"))
    assert len(rows) == IMAGES
    for row in rows:
        assert row["label"] == row["path"].split("/")[0]
        assert (row["width"], row["height"]) == (60, 40)
    kinds = [str(field.type) for field in pq.read_schema(tmp_path / "out" / "shard-00000.parquet")]
    assert kinds == ["string", "list<element: int32>", "string", "int32", "int32"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shard_size": 8}, r"shard size \(7 there, 8 now\)"),
        ({"label": "folder"}, r"label \(None there, 'folder' now\)"),
        ({"original_size": True}, "original size"),
        ({"reproducible": True}, r"reproducible \(False there, True now\)"),
    ],
)
def test_other_settings_are_rejected(
    sealed: Path, images: Path, here: Here, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    tokenize(sealed, images, tmp_path / "out", shard_size=7)
    with pytest.raises(InputError, match=f"was started with other settings: {told}.*choose another --out"):
        tokenize(sealed, images, tmp_path / "out", **{"shard_size": 7, **change})


def test_another_source_is_rejected(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    tokenize(sealed, images, tmp_path / "out")
    with pytest.raises(InputError, match=r"other settings: source .*g0' now"):
        tokenize(sealed, images / "g0", tmp_path / "out")


def test_another_bundle_is_rejected(
    sealed: Path, images: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(sealed, images, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(tiny, "MIX", tiny.MIX + np.float32(0.5))
        other = tiny.make_bundle(tmp_path / "other")
    with pytest.raises(InputError, match="other settings: tokenizer; run with"):
        tokenize(other, images, tmp_path / "out")
    same = shutil.copytree(sealed, tmp_path / "copy")
    assert tokenize(same, images, tmp_path / "out").computed == 0


def test_files_that_came_later_are_reported(sealed: Path, here: Here, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save_images(photos, 5)
    assert tokenize(sealed, photos, tmp_path / "out").left_out == 0
    save_images(photos, 7)
    done = tokenize(sealed, photos, tmp_path / "out")
    assert (done.left_out, done.images) == (2, 5)


def test_what_is_left_out_is_counted_also_when_a_run_resumes(sealed: Path, here: Here, tmp_path: Path) -> None:
    members = {f"{number}.png": png(image) for number, image in enumerate(tiny.photos(4))}
    save_tar(tmp_path / "a.tar", {**members, "0.cls": b"1", "photo.heic": b"", ".x.png": b""})
    omitted = {
        ".heic": {"count": 1, "first": [f"{tmp_path}/a.tar/photo.heic"]},
        "hidden file": {"count": 1, "first": [f"{tmp_path}/a.tar/.x.png"]},
    }
    for _ in range(2):
        done = tokenize(sealed, tmp_path / "a.tar", tmp_path / "out", label="cls")
        assert (done.omitted, done.unlabelled) == (omitted, 3)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["omitted"], manifest["unlabelled"]) == (omitted, 3)
    arguments = ["tokenize", sealed, tmp_path / "a.tar", "--out", tmp_path / "out", "--label", "cls"]
    told = CliRunner().invoke(app.cli, [*map(str, arguments)])
    assert (told.exit_code, told.stderr.count("warning: ")) == (0, 2)
    assert f"warning: left out of {tmp_path}/a.tar: 1 .heic file (" in told.stderr
    assert "warning: 3 of 4 images have no label 'cls'\n" in told.stderr


def test_files_that_went_are_errors(sealed: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save_images(photos, 5)
    gone = photos / "g0" / "003.png"
    with without_ray():
        done = tokenize(sealed, photos, tmp_path / "out", report=lambda *_: gone.unlink(missing_ok=True))
    assert (done.images, done.errors) == (4, 1)
    assert "there is no image 'g0/003.png'" in (tmp_path / "out" / "errors.jsonl").read_text()


def test_tars_that_change_between_runs(sealed: Path, here: Here, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    images = [png(image) for image in tiny.photos(6)]
    save_tar(shards / "a.tar", {f"{number}.png": data for number, data in enumerate(images)})

    def stop(done: int, total: int) -> None:
        if done:
            raise Killed

    with pytest.raises(Killed):
        tokenize(sealed, shards, tmp_path / "out", shard_size=2, report=stop)
    save_tar(shards / "a.tar", {f"{number}.png": data for number, data in enumerate(reversed(images))})
    with pytest.raises(InputError, match=r"a\.tar has changed since the plan was made"):
        tokenize(sealed, shards, tmp_path / "out", shard_size=2)
    shutil.copy(shards / "a.tar", shards / "b.tar")
    (shards / "a.tar").unlink()
    with pytest.raises(InputError, match=r"a\.tar cannot be opened"):
        tokenize(sealed, shards, tmp_path / "out", shard_size=2)


@pytest.mark.parametrize("inside", ["", "g0", "g0/*.png"])
def test_the_images_do_not_lie_in_the_destination(sealed: Path, images: Path, inside: str) -> None:
    before = sorted(images.rglob("*"))
    with pytest.raises(InputError, match="holds the images; choose another --out"):
        tokenize(sealed, images / inside, images)
    assert sorted(images.rglob("*")) == before


def test_a_second_run_is_rejected(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    with (
        Destination(str(tmp_path / "out")).held(),
        pytest.raises(InputError, match=r"another run is writing to .*wait for it to end"),
    ):
        tokenize(sealed, images, tmp_path / "out")


def test_foreign_and_damaged_shards(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    tokenize(sealed, images, tmp_path / "one", shard_size=12)
    tokenize(sealed, images / "g0", tmp_path / "two", shard_size=12)
    shard = tmp_path / "two" / "shard-00000.parquet"
    whole = shard.read_bytes()
    shutil.copy(tmp_path / "one" / shard.name, shard)
    with pytest.raises(OutputError, match="belongs to another run"):
        tokenize(sealed, images / "g0", tmp_path / "two", shard_size=12)
    shard.write_bytes(whole[:-9])
    with pytest.raises(OutputError, match=r"is damaged, or was not written by coda .*remove it and run again"):
        tokenize(sealed, images / "g0", tmp_path / "two", shard_size=12)
    (tmp_path / "two" / "plan.arrow").write_bytes(b"ARROW1")
    with pytest.raises(OutputError, match="is not a plan that this coda knows"):
        tokenize(sealed, images / "g0", tmp_path / "two", shard_size=12)
    (tmp_path / "two" / "plan.arrow").unlink()
    with pytest.raises(InputError, match=r"holds manifest\.json and no plan|holds shard-00000\.parquet and no plan"):
        tokenize(sealed, images / "g0", tmp_path / "two", shard_size=12)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"chunk": -1}, "chunk is -1; expected a whole number from 1, or None"),
        ({"shard_size": 0}, "shard_size is 0; expected a whole number from 1"),
        ({"precision": "fp8"}, "precision is 'fp8'; this bundle has \"auto\", 'fp32'"),
        ({"device": "cuda:1"}, "Ray gives each encoder a GPU of its own"),
        ({"source": "nothing"}, "there is no file or folder 'nothing'"),
        ({"label": "cls"}, "label is 'cls'; for image files expected \"folder\""),
        ({"key_column": "name"}, "are for Parquet files; leave them out"),
    ],
)
def test_wrong_arguments_leave_nothing(
    sealed: Path, images: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        tokenize(sealed, **{"source": images, "out": tmp_path / "out", **changes})
    assert not (tmp_path / "out").exists()


def test_engine_failures_keep_their_class(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    from coda_runtime import BackendError

    with pytest.raises(BackendError, match="nonsense"):
        tokenize(sealed, images, tmp_path / "out", backend="nonsense")


def test_to_a_url(sealed: Path, images: Path, ids: dict[str, list[int]], here: Here) -> None:
    """An object store in memory: there is no rename, an upload is whole or nothing."""
    done = tokenize(sealed, images, "memory://bucket/tokens", shard_size=9)
    assert done.images == IMAGES
    again = tokenize(sealed, images, "memory://bucket/tokens", shard_size=9)
    assert (again.computed, again.images) == (0, IMAGES)
    folder = TokenFolder("memory://bucket/tokens")
    assert {row["path"]: row["ids"].tolist() for row in folder} == ids
    folder.verify()
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_what_colours_mean_is_recorded_and_never_mixed(sealed: Path, here: Here, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    save_images(folder, 4)
    for path in (folder / "g0").glob("*.png"):
        with Image.open(path) as image:
            image.load()
        image.save(path, icc_profile=icc.rgb())
    for color, ignored in (("stored", 2), ("srgb", 0)):
        out = tmp_path / color
        done = tokenize(sealed, folder, out, color=color)
        told = json.loads((out / "manifest.json").read_text())
        assert (done.color, done.profiles_ignored) == (told["color"], told["profiles_ignored"]) == (color, ignored)
        assert tokenize(sealed, folder, out, color=color).profiles_ignored == ignored
        (out / "manifest.json").unlink()
        with pytest.raises(InputError, match="started with other settings: color"):
            tokenize(sealed, folder, out, color={"stored": "srgb", "srgb": "stored"}[color])
    stored, srgb = found(tmp_path / "stored"), found(tmp_path / "srgb")
    assert {path for path, ids in stored.items() if ids != srgb[path]} == {"g0/000.png", "g0/003.png"}


def test_the_command_counts_profiles_in_one_line(sealed: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(tiny.photos(1)[0]).save(tmp_path / "pictures" / f"{number}.png", icc_profile=icc.rgb())
    given = ["tokenize", str(sealed), str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app.cli, given)
    assert told.stderr.count("warning: 3 images have a colour profile other than sRGB, which is ignored") == 1
    done = CliRunner().invoke(app.cli, [*given, "--color", "srgb"])
    assert done.exit_code == 1
    assert "color ('stored' there, 'srgb' now)" in done.stderr


def test_a_plan_that_came_before_colours_were_recorded(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    tokenize(sealed, images, tmp_path / "out")
    content, table = plan_of(tmp_path / "out")
    del content["settings"]["color"]
    assert read_plan(as_plan(content, table), "it").settings.color == "stored"


def plan_of(out: Path) -> tuple[dict[str, Any], pa.Table]:
    table = pa.ipc.open_file(pa.BufferReader((out / "plan.arrow").read_bytes())).read_all()
    return json.loads(table.schema.metadata[b"coda.plan"]), table


def as_plan(content: object, table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    plan = table.replace_schema_metadata({b"coda.plan": json.dumps(content).encode()})
    with pa.ipc.new_file(sink, plan.schema) as writer:
        writer.write_table(plan)
    return bytes(sink.getvalue())


def test_a_plan_that_somebody_changed(sealed: Path, images: Path, here: Here, tmp_path: Path) -> None:
    tokenize(sealed, images, tmp_path / "out", label="folder")
    content, table = plan_of(tmp_path / "out")
    changed: list[object] = [[], None, "words", {key: content[key] for key in content if key != "files"}]
    for key in ("omitted", "files", "settings"):
        changed += [{**content, key: wrong} for wrong in ([], [1], "words", None)]
    for wrong in (1, {"count": "x", "first": []}, {"count": 1}):
        changed += [{**content, "omitted": {"kind": wrong}}]
    plans = [as_plan(wrong, table) for wrong in changed]
    plans += [as_plan(content, table.drop_columns([name])) for name in ("path", "file", "label")]
    for plan in plans:
        with pytest.raises(OutputError, match=r"^it is not a plan that this coda knows \(.+\); choose another --out$"):
            read_plan(plan, "it")
    assert read_plan(as_plan(content, table), "it").images == table.num_rows
