from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from coda_runtime import InputError, OutputError
from coda_runtime.bench.report import render, write_report
from coda_runtime.bench.results import Results
from coda_runtime.bench.series import all_series
from coda_runtime.bench.tables import METRICS, metric_rows
from coda_runtime.report.words import duration
from tests.runtime.bench.examples import document, results
from tests.runtime.report.drawings import check_on_the_drawing


class Outline(HTMLParser):
    """The tags of a page in order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "onload", "onclick")]
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def charts(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def changed(**cells: object) -> Results:
    data: Any = copy.deepcopy(document())
    for cell in data["cells"]:
        cell.update(cells)
    return Results.check(data)


def test_the_batch_profiles_of_an_engine_are_named_where_it_has_several() -> None:
    for profiles, named in ([[1, 1, 1], [8, 16, 32]], True), ([[1, 4, 8]], False), ([], False):
        data: Any = copy.deepcopy(document())
        data["cells"][0]["artifacts"][0]["profiles"] = profiles
        assert (", profiles 1,1,1 8,16,32)" in render([Results.check(data)])) == named


def test_the_page_is_whole_and_needs_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    write_report([results()], out)
    page = out.read_text(encoding="utf-8")
    assert Outline(page).links == []
    assert "url(" not in page
    assert "@import" not in page
    assert "nan" not in re.sub(r"<[^>]*>", "", page.partition("</style>")[2]).lower().split()


def test_every_chart_is_named_described_and_followed_by_its_data() -> None:
    page = render([results()])
    drawn = charts(page)
    # Latency, its distribution, throughput and roofline of three operations, the parts of two, three servers, memory,
    # loading.
    assert len(drawn) == 4 * 3 + 2 + 3 + 2
    for chart in drawn:
        assert [child.tag for child in chart[:2]] == ["title", "desc"]
        assert chart[0].text
        assert len(chart[1].text or "") > 20
        assert chart.attrib["role"] == "img"
    for card in page.split("<svg")[1:]:
        assert "<table>" in card


def test_coordinates_lie_on_the_drawing() -> None:
    for chart in charts(render([results()])):
        check_on_the_drawing(chart)


def test_numbers_are_on_the_page() -> None:
    found = results()
    text = " ".join(Outline(render([found])).words)
    of = found.data["cells"][0]["measurements"][0]
    assert f"{of['latency_s']['p50'] * 1e3:.1f} ms" in text
    assert f"{of['latency_s']['max'] * 1e3:.1f} ms" in text
    assert f"{of['throughput']:.1f}" in text
    for words in (
        "Example Processor 9000", "onnxruntime 1.31.1", "Example GPU", "keep the 99th percentile under",
        "Share of what the machine can do", "first run", "42.7 %", "encoder.fp32.onnx",
        "host to device", "compute", "device to host",
    ):  # fmt: skip
        assert words in text
    assert text.count("encode, single-stream, batch 4: onnxruntime fp32 cpu 2 threads") == 2


def test_copies_to_and_from_a_gpu_have_their_share_of_the_bar_and_their_column() -> None:
    page = render([results()])
    (of,) = [
        of
        for of in results().data["cells"][2]["measurements"]
        if (of["operation"], of["scenario"], of["batch"]) == ("encode", "single-stream", 1)
    ]
    transfers = of["transfers_s"]
    assert transfers is not None
    copied, computed = (duration(transfers[name] or 0) for name in ("host_to_device", "compute"))
    bars = [svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "Where encode spends" in svg]
    assert any(f"host to device: {copied}" in svg for svg in bars)
    assert not any("compute" in svg for svg in bars), "it is the parts together, which are there one by one"
    (row,) = [
        row
        for row in metric_rows(all_series([results()]))
        if row[0] == "encode, single-stream, batch 1: tensorrt fp16 cuda:0"
    ]
    numbers = dict(zip(METRICS, row, strict=True))
    assert (numbers["host to device"], numbers["compute"]) == (copied, computed)


def test_warnings_come_first_and_only_where_there_are_some() -> None:
    loud = render([results(busy=True)])
    assert loud.index("other processes used 37 %") < loud.index("What ran, and where")
    assert re.search(r"\d ms †", loud)
    assert "† The warm-up ended before" in loud
    quiet: Any = document()
    quiet["cells"].pop()
    page = render([Results.check(quiet)])
    assert 'class="warnings' not in page
    assert "†" not in page
    assert "tensorrt-rtx fp16 cuda:0 did not run" in render([results()])


def test_a_measurement_that_was_not_warm_is_reported_even_if_the_file_does_not() -> None:
    data: Any = document()
    data["cells"][0]["measurements"][0]["warm"] = False
    assert "1 measurement never became stable" in render([Results.check(data)])


def test_several_files_are_distinguished() -> None:
    other: Any = document(seed=3)
    other["images"]["sha256"] = "e" * 64
    page = render([results(), Results.check(other, "other.json")])
    Outline(page)
    assert "results.json (A) and other.json (B) did different work: the images differ" in page
    assert "onnxruntime fp32 cpu 2 threads, other.json" in page
    assert "Side by side" not in page, "other images are other work"
    same = render([results(), results(factor=1.2)])
    assert "onnxruntime fp32 cpu 2 threads, results.json (2)" in same
    assert same.count("<td>regression</td>") > 40


def test_a_page_over_two_bundles_has_the_names_of_both() -> None:
    other: Any = document(seed=3, factor=0.1)
    other["bundle"]["folder"] = "small-bundle"
    page = render([results(), Results.check(other, "other.json")])
    assert "<title>coda bench: bundle and small-bundle</title>" in page
    assert re.search("<h1>bundle and small-bundle on Example Processor 9000</h1>", page)
    tiles = page[: page.index("</header>")]
    assert tiles.count("other.json (small-bundle)") == 4, "each figure says whose it is: the faster one's"
    assert "results.json (bundle)" not in tiles


@pytest.mark.parametrize("cells", [{"measurements": []}, {"measurements": [], "load": None, "artifacts": []}])
def test_nothing_measured_is_still_a_page(cells: dict[str, object]) -> None:
    page = render([changed(**cells)])
    Outline(page)
    assert charts(page) == []


def test_what_is_not_known_leaves_no_chart() -> None:
    data: Any = document()
    for cell in data["cells"]:
        cell["load"] = None
        for of in cell["measurements"]:
            of.update(parts_s=None, flops_share=None, peak_host_bytes=None, peak_device_bytes=None)
        cell["measurements"] = [of for of in cell["measurements"] if of["scenario"] == "offline"]
    page = render([Results.check(data)])
    Outline(page)
    assert len(charts(page)) == 3
    assert "Roofline" not in page


def test_text_of_the_file_is_escaped() -> None:
    data: Any = document()
    data["bundle"]["folder"] = "<script>alert(1)</script>"
    data["noise"]["warnings"] = ["<img src=x>"]
    data["cells"][0]["backend"] = "<b>"
    Outline(render([Results.check(data)]))


def test_no_results() -> None:
    with pytest.raises(InputError, match="at least one file"):
        render([])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_report([results()], tmp_path)
