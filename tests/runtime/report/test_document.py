from __future__ import annotations

import re
from importlib.resources import files

import pytest

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


STYLE = files("coda_runtime.report").joinpath("page.css").read_text(encoding="utf-8")


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


LIGHT = colours(STYLE[: STYLE.index("@media")])
DARK = {**LIGHT, **colours(STYLE[STYLE.index("(prefers-color-scheme: dark)") :].partition("\n}")[0])}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_what_is_behind_them(theme: dict[str, str]) -> None:
    assert theme["card"] != "#000000"
    for text, behind in (("ink", "page"), ("ink", "card"), ("soft", "page"), ("soft", "card"), ("ink", "warn-page"),
                         ("warn", "warn-page"), ("ink", "code"), ("one", "page")):  # fmt: skip
        assert contrast(theme[text], theme[behind]) >= 4.5, (text, behind)
    lines = ["one", "two", "warn", *(f"c{number}" for number in range(3, 9))]
    for line in lines:
        assert contrast(theme[line], theme["card"]) >= 3, line
    assert len({theme[line] for line in lines}) == len(lines)


def test_both_themes_have_every_colour_and_paper_is_light() -> None:
    dark = STYLE[STYLE.index("(prefers-color-scheme: dark)") :].partition("\n}")[0]
    assert colours(dark).keys() == LIGHT.keys()
    assert re.findall(r"@media ([^{]*\(prefers-color-scheme: dark\)) {", STYLE) == [
        "screen and (prefers-color-scheme: dark)"
    ]
    assert STYLE.count("prefers-color-scheme") == 1
    used = set(re.findall(r"var\(--([\w-]+)\)", STYLE))
    assert used <= {*re.findall(r"--([\w-]+):", STYLE)}


def test_on_paper_no_table_is_cut_off() -> None:
    paper = STYLE[STYLE.index("@media print") :]
    assert ".scroll { overflow: visible; }" in paper, "nobody scrolls a sheet"
    assert re.search(r"\.scroll td {[^}]*white-space: normal;", paper)
    assert re.search(r", tr {[^}]*break-inside: avoid;", paper)
