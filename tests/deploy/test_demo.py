"""`coda demo` as a newcomer types it: once for real on the shipped sample, and what a failure leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import coda_runtime
from coda_deploy import photographs
from coda_deploy.demo import run
from coda_deploy.demo.results import NoInt8
from coda_deploy.demo.run import STEPS, _check_bundle, _check_tokenizer, run_demo
from coda_deploy.evaluate.target import open_target
from coda_deploy.sample import tokenizer_path
from coda_runtime.cli.app import cli
from coda_runtime.codes.metrics import psnr
from coda_runtime.errors import OutputError
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.io.counts import count
from coda_runtime.parity import ParityError
from coda_runtime.report import words
from tests.deploy.demo.small import MEASURED, results

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Reads a page, fails where tags do not nest, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.charts: list[dict[str, str | None]] = []
        self.links: list[str | None] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images.append(found)
        if tag == "svg":
            self.charts.append(found)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + "\n"
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@dataclass
class Demo:
    """What a run left."""

    out: Path
    result: Result
    source: str
    page: Page
    manifest: dict[str, Any]

    def parity(self, part: str) -> dict[str, Any]:
        """The manifest's numbers of a part."""
        artifact = next(a for a in self.manifest["artifacts"] if a["part"] == part)
        return dict(artifact["parity"]["onnxruntime:cpu"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    (out / "bundle").mkdir(parents=True)
    (out / "report.html").write_text("an older report")
    (out / "bundle" / "manifest.json").write_text("an older bundle")
    (out / "tokens.npz").write_text("the user's")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        result = CliRunner().invoke(cli, ["demo", "--out", str(out)])
        assert result.exit_code == 0, result.output
        source = (out / "report.html").read_text(encoding="utf-8")
        yield Demo(out, result, source, Page(source), json.loads((out / "bundle" / "manifest.json").read_text()))


def test_leaves_a_tokenizer_a_bundle_and_a_report(demo: Demo) -> None:
    assert {path.name for path in demo.out.iterdir()} == {"tokenizer", "bundle", "report.html", "page", "tokens.npz"}
    for file in tokenizer_path().iterdir():
        assert (demo.out / "tokenizer" / file.name).read_bytes() == file.read_bytes()
    assert (demo.out / "tokens.npz").read_text() == "the user's"
    assert list(demo.out.parent.iterdir()) == [demo.out]


def test_the_page_has_the_bundle_and_needs_no_npm(demo: Demo) -> None:
    described = json.loads((demo.out / "page" / "site.json").read_text(encoding="utf-8"))
    assert described["precisions"] == ["fp32", "int8"]
    assert described["engine"]["base"].startswith("https://")
    for path in (demo.out / "page" / "bundle").iterdir():
        assert path.read_bytes() == (demo.out / "bundle" / path.name).read_bytes()


def test_the_bundle_gives_the_images_that_the_report_counts(demo: Demo) -> None:
    with coda_runtime.load(demo.out / "bundle") as tokenizer:
        images = np.stack([coda_runtime.images.fit(path, tokenizer.spec.image_size) for path in photographs.paths()])
        assert words.decibel(psnr(images, tokenizer.reconstruct(images))) in demo.page.text


def test_the_continuous_vae_is_that_of_coda_eval(demo: Demo) -> None:
    """Without LoRA, which bends it to the tokens."""
    with open_target(str(demo.out / "tokenizer")) as target:
        images = np.stack([coda_runtime.images.fit(path, target.spec.image_size) for path in photographs.paths()])
        alone = target.continuous(images)
    assert alone is not None
    assert f"{words.decibel(psnr(images, alone))}\nPSNR of the continuous VAE" in demo.page.text


def test_says_what_it_does_in_plain_lines(demo: Demo) -> None:
    lines = demo.result.stdout.splitlines()
    assert demo.result.stderr == ""
    assert "copying the sample tokenizer" in lines
    # A line for each step that the bar on a terminal counts to, between the first and the five that sum up.
    assert lines[0] == "starting PyTorch"
    assert len(lines[1:-5]) == STEPS
    assert f"report: {demo.out / 'report.html'}" in lines
    assert any(line.startswith("page: ") and f"--directory {demo.out / 'page'} 8000" in line for line in lines)
    assert lines[-1].endswith(f"coda encode {demo.out / 'bundle'} photo.jpg --out tokens.npz")
    assert all(len(line) < 200 and "\x1b" not in line and "\r" not in line for line in lines)


def test_the_report_needs_nothing_beside_it(demo: Demo) -> None:
    assert demo.page.links
    assert all(link is not None and link.startswith("data:image/png;base64,") for link in demo.page.links)
    assert "http" not in demo.source.replace('http-equiv="', "")
    assert "url(" not in demo.source
    assert "@import" not in demo.source
    assert "<script" not in demo.source


def test_every_picture_and_chart_is_described(demo: Demo) -> None:
    assert all(image["alt"] for image in demo.page.images)
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in demo.page.charts)
    assert len(demo.page.charts) >= 5


@pytest.mark.parametrize("name", photographs.NAMES)
def test_shows_every_photograph_three_times(demo: Demo, name: str) -> None:
    alts = [image["alt"] for image in demo.page.images]
    assert {f"{name}, original", f"{name}, from tokens", f"{name}, continuous VAE"} <= set(alts)


def test_shows_every_scale_growing(demo: Demo) -> None:
    total = 0
    for side in demo.manifest["spec"]["scales"]:
        total += side * side
        assert count(total, "token") in demo.page.text.splitlines()
    assert total == demo.manifest["spec"]["num_tokens"]


def test_parity_is_the_manifest_s(demo: Demo) -> None:
    encoder, quantizer, decoder = (demo.parity(part) for part in ("encoder", "quantizer", "decoder"))
    for name, label in (("step_agreement", "all, step by step"), ("agreement", "all, free-running")):
        assert [label, words.share(encoder[name]), words.share(quantizer[name])] in demo.page.rows
    for index, side in enumerate(demo.manifest["spec"]["scales"]):
        shares = [words.share(n["step_agreement_per_scale"][index]) for n in (encoder, quantizer)]
        assert [f"{side} × {side}", *shares] in demo.page.rows
    assert ["runtime to PyTorch", words.decibel(decoder["psnr"])] in demo.page.rows
    assert ["runtime to the original", words.decibel(decoder["psnr_to_input"])] in demo.page.rows
    for artifact in demo.manifest["artifacts"]:
        assert any(row[0] == artifact["file"] for row in demo.page.rows)


def test_times_every_part_at_both_batch_sizes(demo: Demo) -> None:
    for part in ("encoder", "quantizer", "decoder", "round trip"):
        rows = [row for row in demo.page.rows if row[0] == part]
        assert len(rows) == 2
        assert all(row[-1].endswith("×") for row in rows)


def test_int8_is_beside_fp32_with_what_it_loses_here(demo: Demo) -> None:
    assert demo.manifest["default_precision"] == "fp32"
    encoder, decoder = (
        next(a for a in demo.manifest["artifacts"] if (a["part"], a["precision"]) == (part, "int8"))
        for part in ("encoder", "decoder")
    )
    numbers = decoder["parity"]["onnxruntime:cpu"]
    lines = demo.page.text.splitlines()
    assert f"{numbers['psnr_drop']:.2f} dB" in lines
    assert f"in the mean; worst image {numbers['psnr_drop_max']:.2f} dB" in lines
    assert words.decibel(numbers["psnr"]) in lines
    assert words.share(encoder["parity"]["onnxruntime:cpu"]["step_agreement"]) in lines
    alts = [image["alt"] for image in demo.page.images]
    assert {"astronaut, in fp32", "astronaut, in int8"} <= set(alts)
    for batch in ("1 image", "8 images"):
        for operation in ("encode", "decode"):
            (row,) = (row for row in demo.page.rows if row[0] == f"{operation}, {batch}")
            assert row[-1].endswith("×")
    with coda_runtime.load(demo.out / "bundle", precision="int8") as tokenizer:
        index = photographs.NAMES.index("astronaut")
        image = coda_runtime.images.fit(photographs.paths()[index], tokenizer.spec.image_size)[None]
        assert words.decibel(psnr(image, tokenizer.reconstruct(image))) in demo.page.text


def test_a_demo_s_own_bundle_is_known_and_int8_of_the_user_s_images_stays(demo: Demo, tmp_path: Path) -> None:
    _check_bundle(demo.out / "bundle")
    theirs = tmp_path / "bundle"
    shutil.copytree(demo.out / "bundle", theirs)
    manifest = Bundle.open(theirs).manifest
    told = {"int8": {"images": 3, "images_from": "3 of 3 images of the user's", "sha256": "0" * 64}}
    seal(theirs, dataclasses.replace(manifest, provenance={**manifest.provenance, "calibration": told}))
    with pytest.raises(OutputError, match=r"encoder\.int8\.onnx', which the demo did not make and would lose"):
        _check_bundle(theirs)


def test_json_is_the_metrics_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_deploy.demo.run_demo", lambda *_, **__: results(parity=MEASURED))
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["out"] == str(tmp_path / "demo")
    assert figures["num_tokens"] == 5
    assert [timing["part"] for timing in figures["timings"]] == ["encoder"]
    assert figures["parity"][0]["file"] == "encoder.fp32.onnx"


def test_a_file_in_the_way_is_one_line_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.write_text("mine")
    result = CliRunner().invoke(cli, ["demo", "--out", str(out)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"error: {out} is a file: name a folder with --out, or remove it first\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("before", [False, True])
def test_a_failing_export_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ParityError("the fp32 decoder is 3.00 dB from the tokenizer's images")

    monkeypatch.setattr("coda_deploy.demo.run.export_tokenizer", fail)
    out = tmp_path / "new" / "demo"
    if before:
        out.mkdir(parents=True)
        (out / "report.html").write_text("an older report")
    result = CliRunner().invoke(cli, ["demo", "--out", str(out)])
    assert result.exit_code == 1
    assert result.stderr == "error: the fp32 decoder is 3.00 dB from the tokenizer's images\n"
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ([out / "report.html"] if before else [])
    assert before or not out.parent.exists()


def test_where_int8_fails_fp32_is_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail(*_: object, precisions: tuple[str, ...], **__: object) -> None:
        asked.append(precisions)
        raise ParityError(f"the {precisions[-1]} decoder is 30.00 dB from the tokenizer's images")

    monkeypatch.setattr(run, "export_tokenizer", fail)
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 1
    assert result.stderr == "error: the fp32 decoder is 30.00 dB from the tokenizer's images\n"
    assert asked == [("fp32", "int8"), ("fp32",)]
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_the_user_s_goes_on_in_fp32(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real: random weights lose far more in int8 than the threshold lets them."""
    monkeypatch.setattr("coda_deploy.demo.timing.BATCHES", (1,))
    with pytest.warns(RuntimeWarning, match="the demo goes on in fp32 alone, for int8 fell short: .*int8") as warned:
        found = run_demo(tmp_path / "demo", tokenizer=tiny_folder)
    assert [Path(of.filename).name for of in warned if of.category is RuntimeWarning] == ["test_demo.py"]
    assert isinstance(found.int8, NoInt8)
    page = Page((tmp_path / "demo" / "report.html").read_text(encoding="utf-8"))
    assert f"holds no int8, which fell short in the export: {found.int8.reason}" in page.text
    assert found.manifest.precisions == ("fp32",)
    assert Bundle.open(tmp_path / "demo" / "bundle").manifest.precisions == ("fp32",)


def test_what_is_not_int8_s_fails_a_tokenizer_of_the_user_s(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ParityError("the fp32 decoder is 3.00 dB from the tokenizer's images")

    monkeypatch.setattr(run, "export_tokenizer", fail)
    with pytest.raises(ParityError, match="the fp32 decoder"):
        run_demo(tmp_path / "demo", tokenizer=tiny_folder)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_sample_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_deploy.demo.run.tokenizer_path", lambda: tmp_path / "nowhere")
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 1
    assert "install coda-deploy again" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_somebody_went_on_with_stays(tiny_bundle: Path, tmp_path: Path) -> None:
    """The demo writes its own again; engines and precisions that were added to it would be gone."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    done = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "fp16.onnx', which the demo did not make and would lose: move it, or choose another --out" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_tokenizer_of_the_user_s_stays(tmp_path: Path) -> None:
    weights = tmp_path / "tokenizer" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"trained for days")
    for page in (False, True):
        if page:  # of a demo before the training
            (tmp_path / "report.html").touch()
            os.utime(tmp_path / "report.html", (0, 0))
        done = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)])
        assert done.exit_code == 1
        assert "tokenizer is a tokenizer that the demo did not make and would replace: choose another" in done.stderr
        assert weights.read_bytes() == b"trained for days"


def test_a_demo_s_own_tokenizer_is_known(tmp_path: Path) -> None:
    """That of an older release too, whose page was written after it."""
    source, out = tmp_path / "source", tmp_path / "out"
    for folder in (source, out / "tokenizer"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    _check_tokenizer(out, source)
    (out / "tokenizer" / "model.safetensors").write_bytes(b"weights of old")
    (out / "report.html").write_text("page")
    _check_tokenizer(out, source)
