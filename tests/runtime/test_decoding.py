"""A folder of tokens to images: files whole or not there, a stopped run gone on with, and what is refused."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray", reason="coda-runtime[bulk] is not installed")

from click.testing import CliRunner

from coda_runtime import InputError, OutputError, TokenError, Tokenizer, load
from coda_runtime.bulk import TokenFolder, tokenize
from coda_runtime.cli import app
from coda_runtime.decoding import decode_folder, writers
from coda_runtime.images.variants import Variants
from tests.runtime import tiny
from tests.runtime.bulk.conftest import save_images
from tests.runtime.bulk.local_pipeline import without_ray

COUNT = 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and a folder of tokens of 11 images in four shards, two of which differ by their suffix alone."""
    base = tmp_path_factory.mktemp("decoding")
    bundle = tiny.make_bundle(base / "bundle")
    save_images(base / "pictures", COUNT - 1)
    shutil.copy(base / "pictures" / "g0" / "000.png", base / "pictures" / "g0" / "000.webp.png")
    with pytest.MonkeyPatch.context() as patch, without_ray():
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        tokenize(bundle, base / "pictures", base / "tokens", shard_size=3, label="folder")
    return bundle, base / "tokens"


@pytest.fixture
def tok(made: tuple[Path, Path]) -> Any:
    with load(made[0]) as tokenizer:
        tokenizer.images_per_run = 2
        yield tokenizer


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_what_decode_gives(tok: Tokenizer, made: tuple[Path, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = decode_folder(tok, str(made[1]), tmp_path / "out", report=lambda *told: seen.append(told))
    assert (done.images, done.computed, done.files, done.tokens) == (COUNT, COUNT, COUNT, tiny.TOKENS)
    assert seen[-1] == (COUNT, COUNT)
    assert json.loads((tmp_path / "out" / "decoded.json").read_text())["finished"] is True
    for row in TokenFolder(made[1]):
        written = tmp_path / "out" / row["path"]
        np.testing.assert_array_equal(pixels(written), tok.decode(row["ids"][None])[0])
    coarse = decode_folder(tok, str(made[1]), tmp_path / "coarse", scales=2)
    assert coarse.tokens == 5
    first = TokenFolder(made[1])[0]
    np.testing.assert_array_equal(pixels(tmp_path / "coarse" / first["path"]), tok.decode(first["ids"][None, :5])[0])


def test_shards_are_whole_webdatasets(tok: Tokenizer, made: tuple[Path, Path], tmp_path: Path) -> None:
    done = decode_folder(tok, str(made[1]), tmp_path / "out", shards=True)
    assert (done.files, sorted(contents(tmp_path / "out"))) == (
        4,
        ["decoded.json", *(f"images-0000{shard}.tar" for shard in range(4))],
    )
    rows, number = list(TokenFolder(made[1])), 0
    for shard in range(4):
        with tarfile.open(tmp_path / "out" / f"images-0000{shard}.tar") as archive:
            members = archive.getmembers()
            for image, about in zip(members[::2], members[1::2], strict=True):
                assert (image.name, about.name) == (f"{number:09d}.png", f"{number:09d}.json")
                file, told = archive.extractfile(image), archive.extractfile(about)
                assert file is not None
                assert told is not None
                with Image.open(file) as picture:
                    np.testing.assert_array_equal(np.asarray(picture), tok.decode(rows[number]["ids"][None])[0])
                assert json.loads(told.read()) == {"path": rows[number]["path"], "label": rows[number]["label"]}
                number += 1
    assert number == COUNT


@pytest.mark.parametrize("shards", [False, True])
def test_every_variant_of_an_image(made: tuple[Path, Path], tmp_path: Path, shards: bool) -> None:
    save_images(tmp_path / "pictures", 5)
    with without_ray():
        tokenize(made[0], tmp_path / "pictures", tmp_path / "tokens", shard_size=2, variants=Variants(flip=True))
    out = tmp_path / "out"
    with load(made[0]) as tok:
        done = decode_folder(tok, str(tmp_path / "tokens"), out, shards=shards)
        assert (done.images, done.computed, done.files) == (10, 10, 3 if shards else 10)
        rows = list(TokenFolder(tmp_path / "tokens"))
        if not shards:
            names = [row["path"].replace(".png", "-2.png" if row["variant"] else ".png") for row in rows]
            for row, name in zip(rows, names, strict=True):
                np.testing.assert_array_equal(pixels(out / name), tok.decode(row["ids"][None])[0])
            return
    told = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive.getmembers()[1::2]:
                file = archive.extractfile(member)
                assert file is not None
                told[member.name] = json.loads(file.read())
    assert list(told) == [f"{number:09d}.json" for number in range(10)]
    assert [(one["path"], one["variant"]) for one in told.values()] == [(row["path"], row["variant"]) for row in rows]


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_a_stopped_run_is_gone_on_with(
    tok: Tokenizer, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: bool, after: int
) -> None:
    decode_folder(tok, str(made[1]), tmp_path / "once", shards=shards)
    left, save = [after], writers.save_png

    def stopping(file: Any, image: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            if isinstance(file, Path):
                file.write_bytes(b"half")
            raise KeyboardInterrupt
        save(file, image)

    with monkeypatch.context() as patch:
        patch.setattr(writers, "save_png", stopping)
        with pytest.raises(KeyboardInterrupt):
            decode_folder(tok, str(made[1]), tmp_path / "out", shards=shards)
    half = contents(tmp_path / "out")
    whole = contents(tmp_path / "once")
    assert {name: data for name, data in whole.items() if name in half and name != "decoded.json"} == {
        name: data for name, data in half.items() if name != "decoded.json"
    }, "nothing is half-written"
    (tmp_path / "out" / ".killed.png.1-ab.part").write_bytes(b"half")  # as a process leaves it that was killed
    done = decode_folder(tok, str(made[1]), tmp_path / "out", shards=shards)
    assert done.computed < COUNT or after < 4
    assert contents(tmp_path / "out") == whole
    assert decode_folder(tok, str(made[1]), tmp_path / "out", shards=shards).computed == 0


def test_what_lies_there_is_not_mixed_with(tok: Tokenizer, made: tuple[Path, Path], tmp_path: Path) -> None:
    out, tokens = tmp_path / "out", str(made[1])
    (out / "g0").mkdir(parents=True)
    (out / "g0" / "000.png").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'g0/000\.png' already.*--force"):
        decode_folder(tok, tokens, out)
    assert list(contents(out)) == ["g0/000.png"]
    decode_folder(tok, tokens, out, force=True)
    for settings in ({"scales": 2}, {"shards": True}):
        with pytest.raises(InputError, match=r"holds images of another run: (scales|shards) differs; choose another"):
            decode_folder(tok, tokens, out, **settings)  # type: ignore[arg-type]
    assert decode_folder(tok, tokens, out, scales=2, force=True).computed == COUNT
    (out / "decoded.json").write_text("{}")
    with pytest.raises(OutputError, match=r"decoded\.json is not what `coda decode` writes"):
        decode_folder(tok, tokens, out, scales=2)


def test_what_it_does_not_take(
    tok: Tokenizer, made: tuple[Path, Path], tmp_path: Path, copy: Callable[[Path], Path]
) -> None:
    with pytest.raises(TokenError, match="--scales is 4, and this tokenizer has 3 scales"):
        decode_folder(tok, str(made[1]), tmp_path / "out", scales=4)
    for scales in (0, -1):
        with pytest.raises(TokenError, match=f"--scales is {scales}, .* 3 scales; give 1 to 3"):
            decode_folder(tok, str(made[1]), tmp_path / "out", scales=scales)
    with pytest.raises(OutputError, match="does not exist or is empty"):
        decode_folder(tok, str(tmp_path / "nothing"), tmp_path / "out")
    other = Path(shutil.copytree(made[1], tmp_path / "other"))
    content = json.loads((other / "manifest.json").read_text())
    content["bundle"]["fingerprints"] = ["quantizer:abc"]
    (other / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(TokenError, match=r"other was made with another tokenizer \(quantizer:abc"):
        decode_folder(tok, str(other), tmp_path / "out")
    (other / "manifest.json").unlink()
    with pytest.raises(OutputError, match=r"has no manifest\.json, so its run is not finished"):
        decode_folder(tok, str(other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(made: tuple[Path, Path], tmp_path: Path) -> None:
    def coda(*arguments: object, code: int = 0) -> str:
        done = CliRunner().invoke(app.cli, list(map(str, arguments)))
        assert done.exit_code == code, done.output
        return done.output

    out = tmp_path / "out"
    assert coda("decode", *made, "--out", out) == f"11 images: {out}\n"
    (out / "g1" / "001.png").unlink()
    assert coda("decode", *made, "--out", out) == f"11 images, 10 of them there before: {out}\n"
    told = json.loads(coda("decode", *made, "--out", tmp_path / "tars", "--shards", "--json"))
    assert told == {
        "out": str(tmp_path / "tars"), "num_images": 11, "num_tokens": 21, "num_computed": 11, "num_files": 4,
    }  # fmt: skip
    assert "--shards is for a folder that `coda tokenize` wrote" in coda(
        "decode", made[0], tmp_path / "tokens.npz", "--out", out, "--shards", code=1
    )


def test_one_scale_replaced_is_a_full_decode(tok: Tokenizer, made: tuple[Path, Path]) -> None:
    """`decode` keeps nothing of an earlier call: an edited scale gives the picture of all its ids."""
    ids = np.stack([row["ids"] for row in TokenFolder(made[1])])[:3]
    before = tok.decode(ids)
    for number, stop in enumerate(tok.spec.prefix_lengths):
        edited = ids.copy()
        scale = tok.split(edited)[number]
        scale[:] = (scale + 5) % tiny.CODES  # a view
        assert (edited[:, :stop] != ids[:, :stop]).any()
        acc = tok.accumulator(len(ids))
        for grid in tok.split(edited):
            acc.add(grid)
        np.testing.assert_array_equal(tok.decode(edited), acc.image())
        np.testing.assert_array_equal(tok.decode(edited), np.concatenate([tok.decode(row[None]) for row in edited]))
        assert (tok.decode(edited) != before).any()
    np.testing.assert_array_equal(tok.decode(ids), before)
