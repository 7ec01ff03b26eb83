from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from coda_runtime.report import words
from coda_runtime.report.images import picture, png_uri
from coda_runtime.report.markup import Markup, el, join, table


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    assert el("p", "<b>&", Markup("<br>"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;&amp;<br></p>'
    assert join(["a", "<"], el("i", "x")) == "a&lt;<i>x</i>"


def test_attribute_names_and_values() -> None:
    assert el("line", class_="tick", stroke_width=2, x1=1.25, x2=3.0, y=None, hidden=False) == (
        '<line class="tick" stroke-width="2" x1="1.2" x2="3"></line>'
    )
    assert el("meta", name="viewport") == '<meta name="viewport">'


def test_table_has_headings() -> None:
    assert table(["a", "b"], [["x", "1"]]) == (
        '<table><thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>'
        '<tbody><tr><th scope="row">x</th><td>1</td></tr></tbody></table>'
    )


def test_a_row_of_one_cell_heads_those_below_it() -> None:
    group = '<tr><th class="group" colspan="2" scope="rowgroup"><span>&lt;x&gt;</span></th></tr>'
    assert group in table(["a", "b"], [["<x>"], ["y", "1"]])
    assert 'scope="row"' in table(["a"], [["alone"]]), "unless no row has more"


def test_images_are_png_inside_the_page() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    head, _, data = png_uri(pixels).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(BytesIO(base64.b64decode(data)))), pixels)
    assert 'alt="a &quot;cat&quot;" width="7" height="5" class="codes"' in picture(pixels, 'a "cat"', kind="codes")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100 %"), (0.9999999, "99.999 %"), (0.99996, "99.996 %"), (0.0, "0.000 %"), (None, "not run")],
)
def test_only_all_reads_as_all(value: float | None, text: str) -> None:
    assert words.share(value) == text


def test_words() -> None:
    assert words.decibel(None) == words.decibel(float("inf")) == "identical"
    assert words.decibel(21.55) in ("21.5 dB", "21.6 dB")
    assert [words.milliseconds(v) for v in (1.234, 12.34, 1234.5)] == ["1.23 ms", "12.3 ms", "1234 ms"]
    assert [words.times(v) for v in (0.5, 12.34)] == ["0.50 ×", "12.3 ×"]
    assert [words.duration(v) for v in (0, 9.876e-5, 1.2345e-2, 0.999, 2, 123.4)] == [
        "0.00 ms", "98.8 µs", "12.3 ms", "999 ms", "2.00 s", "123 s",
    ]  # fmt: skip
    assert [words.size(v) for v in (1 << 20, 5 << 28)] == ["1 MiB", "1.25 GiB"]
    assert [words.rate(v) for v in (0, 0.0123, 1.5, 12, 1234.5)] == ["0.00", "0.0123", "1.50", "12.0", "1,234"]
