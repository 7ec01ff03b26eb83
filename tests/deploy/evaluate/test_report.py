"""The page and the rows of text, of findings that are known."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coda_deploy import photographs
from coda_deploy.data import open_source
from coda_deploy.evaluate import Evaluation, Metrics, evaluate
from coda_deploy.evaluate.report import AMPLIFIED, render
from coda_deploy.evaluate.rows import notes, quality_columns, quality_rows, scale_columns, scale_rows
from coda_runtime.images import fit
from tests.deploy.evaluate.echo import SPEC, Echo


class Page(HTMLParser):
    """Fails where tags do not nest; keeps pictures by their words, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: dict[str, NDArray[np.uint8]] = {}
        self.charts: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            head, _, data = str(found["src"]).partition(",")
            assert head == "data:image/png;base64"
            self.pictures[str(found["alt"])] = np.asarray(Image.open(BytesIO(base64.b64decode(data))))
        if tag == "svg":
            self.charts.append(str(found["aria-label"]))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data}\n"
            self.headings += [data] * (self.open[-1:] == ["h3"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, path in zip(photographs.NAMES, photographs.paths(), strict=True):
        Image.fromarray(fit(path, 32)).save(folder / f"{name}.png")
    return folder


def rough(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images // 128 * 128 + 64


def fine(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images // 8 * 8


@pytest.fixture(scope="module")
def whole(data: Path) -> Evaluation:
    """Everything that can be in a page."""
    metrics = Metrics(
        ssimulacra2=True,
        lpips_alex=lambda a, b: np.full(len(a), 0.25),
        dists=lambda a, b: np.full(len(a), 0.125),
        lpips=lambda a, b: np.abs(a.astype(float) - b).mean((1, 2, 3)) / 255,
        inception=lambda images: images.reshape(len(images), -1)[:, ::300].astype(float),
        network_device="cpu",
    )
    (data / "bad.png").write_text("no image")
    other = Echo(fine, shift=1, name="another/bundle")
    return evaluate(Echo(rough, fine), open_source(data), metrics=metrics, against=other, data=str(data), show=2)


def test_rows_of_metrics(whole: Evaluation) -> None:
    assert quality_columns(whole) == ["", "tokens", "compared with", "difference", "continuous VAE", "better is"]
    rows = {row[0]: row[1:] for row in quality_rows(whole)}
    assert whole.continuous is not None
    assert whole.other is not None
    psnr = (whole.tokens.psnr or 0, whole.other.psnr or 0)
    written = [f"{psnr[0]:.2f} dB", f"{psnr[1]:.2f} dB", f"-{psnr[1] - psnr[0]:.2f} dB"]
    assert rows["PSNR"] == [*written, f"{whole.continuous.psnr:.2f} dB", "higher"]
    assert rows["SSIM"][0] == f"{whole.tokens.ssim:.4f}"
    assert rows["DISTS"] == ["0.1250", "0.1250", "+0.0000", "0.1250", "lower"]
    assert list(rows) == [
        "PSNR", "SSIM", "MS-SSIM, 2 scales", "LPIPS (VGG)", "LPIPS (AlexNet)", "DISTS", "SSIMULACRA2", "rFID",
    ]  # fmt: skip
    assert {name: row[-1] for name, row in rows.items() if row[-1] == "lower"}.keys() == {
        "LPIPS (VGG)", "LPIPS (AlexNet)", "DISTS", "rFID",
    }  # fmt: skip
    assert scale_columns(whole)[-1] == "equal, free-running"
    *scales, every = scale_rows(whole)
    assert [row[0] for row in scales] == ["1 × 1", "2 × 2", "4 × 4"]
    assert [row[1] for row in scales] == ["8", "32", "128"]
    assert every[0::4] == ["all", "95.238 %"]


def test_notes_tell_what_to_know(whole: Evaluation) -> None:
    biased, skipped = notes(whole)
    assert "rFID over 8 images is biased upwards" in biased
    assert re.fullmatch(r"1 image skipped, the first: '.*bad\.png' is not an image.*", skipped)


def test_page_shows_metrics_and_charts(whole: Evaluation) -> None:
    source = render(whole)
    page = Page(source)
    for row in [*quality_rows(whole), *scale_rows(whole)]:
        assert all(cell in page.text.splitlines() for cell in row)
    assert "Note: rFID over 8 images is biased upwards" in page.text
    assert "Not computed" not in page.text
    assert "95.238 % of its tokens are those of another/bundle." in page.text
    histogram, codes = page.charts
    assert re.fullmatch(r"Histogram of PSNR: tokens from .* dB; continuous VAE from .* dB", histogram)
    assert "4 by 4" in codes
    assert "http" not in source
    assert "url(" not in source
    assert "<script" not in source


def test_page_shows_the_ends_with_their_errors(whole: Evaluation) -> None:
    page = Page(render(whole))
    # Names as they are inside the data.
    assert [name for name in page.headings if name.endswith(".png")] == [
        Path(shown.name).name for shown in (*whole.worst, *whole.best)
    ]
    assert len(page.pictures) == 4 * 4
    for shown in (*whole.worst, *whole.best):
        name = Path(shown.name).name
        original = page.pictures[f"{name}, original"].astype(int)
        np.testing.assert_array_equal(original, shown.original)
        np.testing.assert_array_equal(page.pictures[f"{name}, from tokens"], rough(shown.original))
        np.testing.assert_array_equal(page.pictures[f"{name}, continuous vae"], fine(shown.original))
        error = np.minimum(4 * np.abs(original - page.pictures[f"{name}, from tokens"]), 255)
        np.testing.assert_array_equal(page.pictures[f"{name}, error of the tokens"], error)
    assert f"amplified {AMPLIFIED} times" in page.text


def test_every_image_is_in_the_histogram(whole: Evaluation) -> None:
    source = render(whole)
    points = re.search(r'class="area" points="([^"]*)"', source)
    assert points is not None
    heights = [float(pair.split(",")[1]) for pair in points.group(1).split()]
    chart = source.partition("</svg>")[0]
    ticks = [float(y) for y in re.findall(r'class="grid" x1="[^"]*" x2="[^"]*" y1="([^"]*)"', chart)]
    labels = [int(text) for text in re.findall(r'text-anchor="end">(\d+)<', chart)]
    assert labels[0] == 0
    step = (ticks[0] - ticks[1]) / labels[1]
    # Two points a bar; the first and the last close the area along zero.
    assert sum((ticks[0] - height) / step for height in heights[1:-1:2]) == pytest.approx(8, abs=0.05)


def test_page_without_a_vae_says_why(data: Path) -> None:
    found = evaluate(Echo(rough), open_source(data), data=str(data), show=0)
    page = Page(render(found))
    assert page.pictures == {}
    assert (
        "Not computed. LPIPS (VGG): ask for it with --lpips; LPIPS (AlexNet): ask for it with --lpips-alex; "
        "DISTS: ask for it with --dists; SSIMULACRA2: ask for it with --ssimulacra2; rFID: ask for it with --rfid; "
        "continuous VAE: a bundle does not hold it: evaluate the tokenizer it was made of; equal tokens, "
        "free-running: name another one with --against."
    ) in page.text
    assert quality_columns(found) == ["", "tokens", "better is"]


def test_identical_images_are_called_so(data: Path) -> None:
    found = evaluate(Echo(), open_source(data), data=str(data))
    page = Page(render(found))
    assert quality_rows(found)[0] == ["PSNR", "identical", "higher"]
    assert "Every image is identical to its original." in page.text
    assert "8 reconstructions identical to the original, not in the mean of PSNR" in notes(found)
    assert "inf" not in re.sub(r"base64,[^\"]*", "", render(found))


def test_hostile_names_are_escaped(data: Path, tmp_path: Path) -> None:
    name = '<script>alert("x")&.png'
    Image.open(data / "cat.png").save(tmp_path / name)
    found = evaluate(Echo(rough, name="<b>"), open_source(tmp_path), data=str(tmp_path))
    source = render(found)
    assert "<script" not in source
    assert "<b>" not in source.replace("<b>Original</b>", "").replace("<b>From tokens</b>", "").replace(
        "<b>Error of the tokens</b>", ""
    )
    assert name in Page(source).headings


def test_one_image_of_a_one_scale_tokenizer(data: Path) -> None:
    spec = type(SPEC)("one", 32, 8, 4, 16, (4,), 16)
    found = evaluate(Echo(rough, spec=spec), open_source(data), limit=1, metrics=Metrics(ssim=False), show=1)
    page = Page(render(found))
    assert len(page.pictures) == 3
    assert "1 image" in page.text
