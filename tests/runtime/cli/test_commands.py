from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import coda_runtime
from coda_runtime import CodaError
from coda_runtime.cli import app
from coda_runtime.cli import verify as verify_module
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.codes.tokens_file import read_tokens
from coda_runtime.images import fit
from tests.runtime import tiny

Run = Callable[..., subprocess.CompletedProcess[str]]
Fails = Callable[..., str]


def _in_process(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app.cli, [*map(str, arguments)])
    assert done.exit_code == code, done.stderr
    return done


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def tokens(sealed: Path, photos: Path, tmp_path: Path) -> Path:
    _in_process("encode", sealed, photos, "--out", tmp_path / "tokens.npz")
    return tmp_path / "tokens.npz"


class TestEncode:
    def test_the_file_says_everything(self, coda: Run, sealed: Path, photos: Path, tmp_path: Path) -> None:
        done = coda("encode", sealed, photos, photos / "0.png", "--out", "deep/tokens.npz")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "6 images, 21 tokens each: deep/tokens.npz\n"
        with np.load(tmp_path / "work" / "deep" / "tokens.npz") as data, coda_runtime.load(sealed) as tok:
            names = ["0.png", "1.png", "2.png", "more/3.png", "more/4.png", "0.png"]
            assert data["names"].tolist() == names
            assert data["ids"].dtype == np.int32
            np.testing.assert_array_equal(data["ids"], tok.encode([photos / name for name in names]))
            assert data["scales"].tolist() == [1, 2, 4]
            assert int(data["vocab_size"]) == 16
            assert data["made_with"].tolist() == list(tok.fingerprints)

    def test_bad_images_leave_nothing(self, fails: Fails, sealed: Path, photos: Path, tmp_path: Path) -> None:
        (photos / "more" / "text.jpg").write_text("hello")
        assert "text.jpg' is not an image" in fails("encode", sealed, photos, "--out", "new/tokens.npz")
        (photos / "more" / "text.jpg").unlink()
        (photos / "noise.png").write_bytes(np.random.default_rng(0).bytes(999))
        assert "noise.png" in fails("encode", sealed, photos / "0.png", photos / "noise.png", "--out", "tokens.npz")
        assert "there is no file or folder" in fails("encode", sealed, photos / "nothing.png", "--out", "tokens.npz")
        (tmp_path / "empty").mkdir()
        assert "has no images" in fails("encode", sealed, tmp_path / "empty", "--out", "tokens.npz")

    def test_bad_images_are_left_out_on_request(self, sealed: Path, photos: Path, tmp_path: Path) -> None:
        (photos / "1.png").write_text("hello")
        (photos / "more" / "bad.jpg").write_bytes(b"")
        out = tmp_path / "tokens.npz"
        done = _in_process("encode", sealed, photos, "--out", out, code=1)
        assert "1.png' is not an image" in done.stderr
        assert "(--skip-bad leaves such images out)" in done.stderr
        assert not out.exists()
        done = _in_process("encode", sealed, photos, "--out", out, "--skip-bad")
        first, second, last = done.stderr.splitlines()
        assert first.startswith("skipped 1.png: ")
        assert second.startswith("skipped more/bad.jpg: ")
        assert last == "warning: 2 images could not be read and were skipped"
        (photos / "more" / "bad.jpg").unlink()
        one = _in_process("encode", sealed, photos, "--out", tmp_path / "one.npz", "--skip-bad")
        assert one.stderr.splitlines()[-1] == "warning: 1 image could not be read and was skipped"
        assert done.stdout == f"4 images, 21 tokens each: {out}\n"
        names = ["0.png", "2.png", "more/3.png", "more/4.png"]
        with np.load(out) as data, coda_runtime.load(sealed) as tok:
            assert data["names"].tolist() == names
            np.testing.assert_array_equal(data["ids"], tok.encode([photos / name for name in names]))

    def test_json(self, sealed: Path, photos: Path, tmp_path: Path) -> None:
        (photos / "1.png").write_text("hello")
        out = tmp_path / "tokens.npz"
        told = json.loads(_in_process("encode", sealed, photos, "--out", out, "--skip-bad", "--json").stdout)
        (skipped,) = told.pop("skipped")
        assert skipped["name"] == "1.png"
        assert "is not an image" in skipped["reason"]
        assert told == {
            "out": str(out),
            "num_images": 4,
            "num_tokens": 21,
            "num_skipped": 1,
            "color": "stored",
            "num_profiles_ignored": 0,
        }
        pictures = tmp_path / "pictures"
        told = json.loads(_in_process("decode", sealed, out, "--out", pictures, "--json").stdout)
        images = [{"name": name, "file": name} for name in ("0.png", "2.png", "more/3.png", "more/4.png")]
        assert told == {"out": str(pictures), "num_images": 4, "num_tokens": 21, "images": images}

    def test_not_one_image(self, sealed: Path, photos: Path, tmp_path: Path) -> None:
        for path in photos.rglob("*.png"):
            path.write_text("hello")
        for command in ("encode", "reconstruct"):
            done = _in_process(command, sealed, photos, "--out", tmp_path / "out", "--skip-bad", code=1)
            assert "none of 5 images can be read; the first, 0.png: " in done.stderr
            assert not (tmp_path / "out").exists()

    def test_what_was_there_stays_on_failure(self, fails: Fails, sealed: Path, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "work" / "tokens.npz").write_text("old")
        (photos / "0.png").write_bytes(b"")
        fails("encode", sealed, photos, "--out", "tokens.npz")
        assert (tmp_path / "work" / "tokens.npz").read_text() == "old"

    def test_absent_devices_and_wrong_usage(self, coda: Run, fails: Fails, sealed: Path, photos: Path) -> None:
        assert "CUDAExecutionProvider" in fails("encode", sealed, photos, "--out", "t.npz", "--device", "cuda")
        assert "precision is 'fp16'" in fails("encode", sealed, photos, "--out", "t.npz", "--precision", "fp16")
        assert coda("encode", sealed, photos).returncode == 2
        assert coda("encode", sealed, "--out", "t.npz").returncode == 2
        assert coda("encode", sealed, photos, "--out", "t.npz", "--threads", "0").returncode == 2
        assert coda("encodes").returncode == 2


class TestDecode:
    def test_images_are_what_the_runtime_decodes(self, sealed: Path, tokens: Path, tmp_path: Path) -> None:
        done = _in_process("decode", sealed, tokens, "--out", tmp_path / "out")
        assert done.stdout == f"5 images: {tmp_path / 'out'}\n"
        with np.load(tokens) as data, coda_runtime.load(sealed) as tok:
            for name, picture in zip(data["names"], tok.decode(data["ids"]), strict=True):
                np.testing.assert_array_equal(_pixels(tmp_path / "out" / name), picture)
            _in_process("decode", sealed, tokens, "--out", tmp_path / "coarse", "--scales", 2)
            coarse = tok.decode(data["ids"][:, :5])
        np.testing.assert_array_equal(_pixels(tmp_path / "coarse" / "0.png"), coarse[0])

    def test_too_many_scales(self, fails: Fails, sealed: Path, tokens: Path) -> None:
        assert "--scales is 4, and this tokenizer has 3 scales" in fails(
            "decode", sealed, tokens, "--out", "o", "--scales", 4
        )

    def test_another_tokenizers_tokens_are_rejected(
        self, fails: Fails, sealed: Path, minimal: Path, tokens: Path, tmp_path: Path
    ) -> None:
        # The same quantizer is the same tokenizer, whether or not the value table is there.
        _in_process("decode", minimal, tokens, "--out", tmp_path / "minimal")
        with np.load(tokens) as data:
            np.savez(tokens, **{**data, "made_with": np.array(["quantizer:abc"])})
        assert "was made with another tokenizer (quantizer:abc" in fails("decode", sealed, tokens, "--out", "o")

    @pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
    def test_cut_files(self, sealed: Path, tokens: Path, tmp_path: Path, keep: float) -> None:
        data = tokens.read_bytes()
        tokens.write_bytes(data[: int(len(data) * keep)])
        done = _in_process("decode", sealed, tokens, "--out", tmp_path / "o", code=1)
        assert "tokens.npz is not a .npz file, or it is truncated" in done.stderr
        assert not (tmp_path / "o").exists()

    def test_flipped_bytes_never_crash_or_change_an_image(self, sealed: Path, tokens: Path, tmp_path: Path) -> None:
        with coda_runtime.load(sealed) as tok, np.load(tokens) as data:
            whole, ids = tokens.read_bytes(), data["ids"]
            for at in range(0, len(whole), 7):
                tokens.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
                try:
                    same, message = np.array_equal(read_tokens(tokens, tok).ids, ids), ""
                except coda_runtime.TokenError as error:
                    same, message = False, str(error)
                assert same or "tokens.npz" in message

    def test_a_bomb_is_not_unpacked(self, sealed: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("coda_runtime.io.unpacking._FREE", 1 << 16)
        with np.load(tokens) as data:
            np.savez_compressed(tokens, **{**data, "ids": np.zeros((1 << 20, 21), np.int32)})
        done = _in_process("decode", sealed, tokens, "--out", tokens.parent / "o", code=1)
        assert "tokens.npz cannot be read (it unpacks to 88" in done.stderr

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"ids": None}, "has no key 'ids'"),
            ({"made_with": np.zeros(0, "U1")}, "was made with another tokenizer (nothing"),
            ({"ids": np.zeros((5, 21))}, "ids is float64"),
            ({"ids": np.zeros((5, 20), np.int32)}, "20 tokens a row"),
            ({"ids": np.zeros(21, np.int32)}, r"ids [21] and names [5]"),
            ({"ids": np.zeros((4, 21), np.int32)}, "ids [4, 21] and names [5]"),
            ({"ids": np.full((5, 21), 99, np.int32)}, "ids[0, 0] is 99"),
            ({"ids": np.zeros((0, 21), np.int32), "names": np.zeros(0, "U1")}, "the batch is empty"),
            ({"names": np.arange(5)}, "names is int64"),
            ({"scales": np.array([1, 2])}, "has scales [1, 2]"),
            ({"vocab_size": np.array(7)}, "a codebook of 7"),
            ({"names": np.array([{}] * 5, object)}, "cannot be read"),
        ],
    )
    def test_wrong_contents(
        self, sealed: Path, tokens: Path, tmp_path: Path, change: dict[str, Any], match: str
    ) -> None:
        with np.load(tokens) as data:
            changed = {key: value for key, value in {**data, **change}.items() if value is not None}
        np.savez(tokens, **changed)
        done = _in_process("decode", sealed, tokens, "--out", tmp_path / "o", code=1)
        assert match in done.stderr
        assert not (tmp_path / "o").exists()

    def test_ids_alone_are_enough(self, sealed: Path, tokens: Path, tmp_path: Path) -> None:
        with np.load(tokens) as data:
            ids = data["ids"]
        np.savez(tokens, ids=ids[:, :5].astype(np.int64))
        done = _in_process("decode", sealed, tokens, "--out", tmp_path / "out")
        assert done.stderr.startswith(f"warning: {tokens} does not say which tokenizer made its tokens;")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"0000{row}.png" for row in range(5)]
        with coda_runtime.load(sealed) as tok:
            np.testing.assert_array_equal(_pixels(tmp_path / "out" / "00003.png"), tok.decode(ids[3:4, :5])[0])

    def test_other_files_are_rejected(self, fails: Fails, sealed: Path, photos: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "plain.npy", np.zeros((1, 21), np.int32))
        assert "is not a .npz file" in fails("decode", sealed, tmp_path / "plain.npy", "--out", "o")
        assert "there is no file" in fails("decode", sealed, tmp_path / "none.npz", "--out", "o")
        assert "photos is a folder that `coda tokenize` did not write" in fails("decode", sealed, photos, "--out", "o")

    def test_names_from_outside_stay_inside(self, sealed: Path, tokens: Path, tmp_path: Path) -> None:
        with np.load(tokens) as data:
            names = np.array(["../../up.png", "/abs.png", "a.png", "a.png", "C:\\x.png"])
            np.savez(tokens, **{**data, "names": names})
        before = {path for path in tmp_path.rglob("*") if path != tokens}
        _in_process("decode", sealed, tokens, "--out", tmp_path / "out")
        new = {path for path in tmp_path.rglob("*") if path != tokens} - before - {tmp_path / "out"}
        assert sorted(str(path.relative_to(tmp_path / "out")) for path in new) == [
            "C__x.png", "a-2.png", "a.png", "abs.png", "up.png",
        ]  # fmt: skip


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_what_a_folder_has_beside_images_is_told_once(command: str, sealed: Path, photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (photos / "0.png").rename(elsewhere / "x.png")
    (photos / "linked").symlink_to(elsewhere)
    (photos / "gone").symlink_to("nowhere")
    for name in ("a.heic", "b.avif", "1.jfif", "c.PGM"):
        (photos / name).write_bytes(b"")
    out = tmp_path / ("tokens.npz" if command == "encode" else "out")
    done = _in_process(command, sealed, photos, photos / "1.png", "--out", out)
    assert done.stderr == (
        f"warning: left out of {photos}: 1 .avif file (b.avif); 1 .heic file (a.heic); 1 .jfif file (1.jfif); "
        "1 .pgm file (c.PGM); 1 broken link (gone); what is read are files ending in .bmp .gif .jpeg .jpg .png .ppm "
        ".tif .tiff .webp\n"
    )
    if command == "encode":
        with np.load(out) as data:
            assert data["names"].tolist() == ["1.png", "2.png", "linked/x.png", "more/3.png", "more/4.png", "1.png"]


class TestReconstruct:
    def test_images_and_metrics(self, coda: Run, sealed: Path, photos: Path, tmp_path: Path) -> None:
        done = coda("reconstruct", sealed, photos, "--out", "out", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert report["num_images"] == 5
        with coda_runtime.load(sealed) as tok:
            for entry in report["images"]:
                original = fit(photos / entry["name"], 32)[None]
                picture = tok.reconstruct(original)
                assert entry["psnr"] == pytest.approx(psnr_per_image(original, picture)[0])
                shown = _pixels(tmp_path / "work" / "out" / entry["file"])
                np.testing.assert_array_equal(shown, picture[0])
        assert report["psnr"] == pytest.approx(np.mean([entry["psnr"] for entry in report["images"]]))

    def test_text_and_side_by_side(self, sealed: Path, photos: Path, tmp_path: Path) -> None:
        done = _in_process("reconstruct", sealed, photos, "--out", tmp_path / "out", "--side-by-side")
        lines = done.stdout.splitlines()
        assert lines[0].split() == ["image", "PSNR", "dB"]
        assert lines[-1].split()[0] == "mean"
        assert len(lines) == 7
        assert _pixels(tmp_path / "out" / "0.png").shape == (32, 64, 3)

    def test_an_existing_folder_keeps_its_other_files(self, sealed: Path, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        _in_process("reconstruct", sealed, photos / "0.png", "--out", tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "mine.txt"]

    def test_bad_images_are_left_out_on_request(self, sealed: Path, photos: Path, tmp_path: Path) -> None:
        """The others keep the names of their pictures."""
        (photos / "1.png").write_text("hello")
        done = _in_process("reconstruct", sealed, photos, "--out", tmp_path / "out", "--skip-bad", "--json")
        told = json.loads(done.stdout)
        assert (told["num_images"], told["num_skipped"], told["skipped"][0]["name"]) == (4, 1, "1.png")
        files = ["0.png", "2.png", "more/3.png", "more/4.png"]
        assert [(image["name"], image["file"]) for image in told["images"]] == [(file, file) for file in files]
        assert not (tmp_path / "out" / "1.png").exists()
        with coda_runtime.load(sealed) as tok:
            original = fit(photos / "2.png", 32)[None]
            np.testing.assert_array_equal(_pixels(tmp_path / "out" / "2.png"), tok.reconstruct(original)[0])

    def test_failures_leave_nothing(self, fails: Fails, sealed: Path, photos: Path) -> None:
        (photos / "bad.png").write_bytes((photos / "0.png").read_bytes()[:200])
        assert "bad.png" in fails("reconstruct", sealed, photos, "--out", "a/b/out")
        assert "is a file" in fails("reconstruct", sealed, photos / "0.png", "--out", photos / "1.png")


class TestInspect:
    def test_text(self, coda: Run, sealed: Path) -> None:
        done = coda("inspect", sealed)
        assert (done.returncode, done.stderr) == (0, "")
        for text in ("21 in scales 1 2 4", "CC0-1.0", "codebook.fp32.npy", "100 %", "identical", "opset"):
            assert text in done.stdout

    def test_json_is_the_manifest(self, sealed: Path) -> None:
        report = json.loads(_in_process("inspect", sealed, "--json").stdout)
        manifest = json.loads((sealed / "manifest.json").read_text())
        assert report == {"bundle": str(sealed), **manifest}

    def test_bundles_made_by_hand(self, minimal: Path) -> None:
        assert "not stated" in _in_process("inspect", minimal).stdout

    def test_a_closed_pipe_is_no_traceback(self, sealed: Path, tmp_path: Path) -> None:
        code = "from coda_runtime.cli import main; main()"
        pipe = subprocess.run(
            f"'{sys.executable}' -c '{code}' inspect '{sealed}' | true", shell=True, capture_output=True, text=True
        )
        assert "Traceback" not in pipe.stderr


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        (lambda folder: (folder / "decoder.fp32.onnx").unlink(), "is missing"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS cannot be read"),
        (lambda folder: tiny.edit_manifest(folder, lambda data: data.update(format_version=9)), "newer coda"),
        (
            lambda folder: tiny.edit_manifest(folder, lambda data: data["artifacts"][0].update(file="../../x.onnx")),
            "must name a file inside the bundle",
        ),
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
    ],
)
def test_broken_bundles_fail_every_command(
    sealed: Path, tmp_path: Path, photos: Path, damage: Callable[[Path], Any], match: str
) -> None:
    folder = Path(shutil.copytree(sealed, tmp_path / "bundle"))
    damage(folder)
    before = sorted(tmp_path.rglob("*"))
    for arguments in (
        ["inspect", folder],
        ["verify", folder],
        ["encode", folder, photos, "--out", tmp_path / "t.npz"],
        ["decode", folder, tmp_path / "t.npz", "--out", tmp_path / "o"],
        ["reconstruct", folder, photos, "--out", tmp_path / "o"],
    ):
        done = _in_process(*arguments, code=1)
        assert match in done.stderr
        assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


class TestVerify:
    def test_whole(self, coda: Run, sealed: Path) -> None:
        done = coda("verify", sealed)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("ok ") == 5
        assert "only checksums and what the graphs hold were checked; to measure parity again" in done.stdout

    def test_every_broken_file_is_shown(self, sealed: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(sealed, tmp_path / "bundle"))
        for name in tiny.FILES[:2]:
            (folder / name).write_bytes(b"")
        done = _in_process("verify", folder, "--json", code=1)
        report = json.loads(done.stdout)
        assert report["ok"] is False
        assert [entry["file"] for entry in report["files"] if not entry["ok"]] == list(tiny.FILES[:2])
        assert "(and 1 more)" in done.stderr
        assert "BROKEN  encoder.fp32.onnx" in _in_process("verify", folder, code=1).stdout

    def test_parity_is_measured_by_the_plugin(
        self, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[Any] = []
        numbers = {file: {"onnxruntime:cpu": {"psnr": None}} for file in tiny.FILES[:3]}

        def parity(bundle: Path, tokenizer: Path, images: Path | None) -> dict[str, Any]:
            calls.append((bundle, tokenizer, images))
            if images is not None:
                raise CodaError("the decoder misses its threshold")
            return numbers

        class Plugin:
            @staticmethod
            def load() -> Any:
                return parity

        monkeypatch.setattr(verify_module.metadata, "entry_points", lambda **_: [Plugin])
        report = json.loads(_in_process("verify", sealed, "--tokenizer", tmp_path, "--json").stdout)
        assert report["parity"] == numbers
        assert (report["unmeasured"], report["note"]) == ({}, None)
        assert "parity holds" in _in_process("verify", sealed, "--tokenizer", tmp_path).stdout
        done = _in_process("verify", sealed, "--tokenizer", tmp_path, "--parity-images", tmp_path, code=1)
        assert done.stderr == "error: the decoder misses its threshold\n"
        # A name is for the plugin to understand: a folder, a hub id, or official: and a variant.
        assert calls == [(sealed, str(tmp_path), None)] * 2 + [(sealed, str(tmp_path), tmp_path)]
        done = _in_process("verify", sealed, "--tokenizer", "x", "--parity-images", tmp_path / "none", code=1)
        assert "there is no folder" in done.stderr

    def test_images_without_a_tokenizer_are_wrong_usage(self, sealed: Path, tmp_path: Path) -> None:
        _in_process("verify", sealed, "--parity-images", tmp_path, code=2)


def test_doctor(coda: Run) -> None:
    done = coda("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "CPUExecutionProvider" in done.stdout
    report = json.loads(_in_process("doctor", "--json").stdout)
    assert {"python", "cpu", "engines", "onnxruntime", "nvidia", "libraries", "advice"} <= set(report)
