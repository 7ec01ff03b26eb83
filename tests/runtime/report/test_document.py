from __future__ import annotations

from coda_runtime.report.document import document, keys, tile
from coda_runtime.report.markup import el


def test_a_document_is_whole_and_needs_nothing_beside_it() -> None:
    page = document("a <b>", el("p", "one"), el("p", "two"), footer=el("footer", "end"))
    assert page.startswith("<!doctype html>\n<html")
    assert "<title>a &lt;b&gt;</title>" in page
    assert page.count("<style>") == 1
    assert ".card {" in page
    assert page.rstrip().endswith("<main><p>one</p><p>two</p></main><footer>end</footer></body></html>")


def test_tiles_and_keys() -> None:
    assert tile("PSNR", "21 dB", "mean") == '<div><dt>PSNR</dt><dd>21 dB</dd><dd class="about">mean</dd></div>'
    assert keys(("mean", ""), ("each", "thin")) == (
        '<p class="keys"><span class="key ">mean</span><span class="key thin">each</span></p>'
    )
