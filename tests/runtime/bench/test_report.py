from __future__ import annotations

import copy
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from coda_runtime import InputError, OutputError
from coda_runtime.bench.report import render, write_report
from coda_runtime.bench.results import Results
from coda_runtime.bench.series import all_series, bundle_names
from coda_runtime.bench.tables import METRICS, metric_rows
from coda_runtime.report.words import duration, rate
from tests.runtime.bench import examples
from tests.runtime.report.drawings import check_on_the_drawing
from tests.runtime.report.pages import Node, parse

# Everything that a file of results says in words, and where. Each of them could be anything.
EVIL = "<script>alert(1)<img src=x onerror=alert(1)>\"'&amp;"


TAGS = """
html head meta title style body main header footer section div p span h1 h2 h3 dl dt dd ul li
table thead tbody tr th td svg desc g line polyline polygon rect circle text
"""
KNOWN = frozenset(TAGS.split())


def document(**changes: Any) -> Any:
    return examples.document(loads=True, **changes)


def results(**changes: Any) -> Results:
    return examples.results(loads=True, **changes)


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
    elements = list(parse(page).all())
    assert {of.tag for of in elements} <= KNOWN
    assert [of.attrs for of in elements if of.attrs.keys() & {"src", "href", "srcset"}] == []
    assert "url(" not in page
    assert "@import" not in page
    assert "nan" not in re.sub(r"<[^>]*>", "", page.partition("</style>")[2]).lower().split()


def headings(page: str) -> list[str]:
    return [found.text for found in parse(page).all("h3")]


def two() -> list[Results]:
    """The same on two bundles, whose folders have long paths."""
    other: Any = document(seed=3, factor=0.1)
    other["bundle"].update(folder="/home/someone/bundles/small-bundle", manifest_sha256="d" * 64)
    return [results(), Results.check(other, "other.json")]


def test_every_chart_is_named_described_and_followed_by_its_data() -> None:
    page = render([results()])
    drawn = charts(page)
    of_each = ("Latency, one call after another", "Distribution of the latency", "Process by process", "Throughput")
    assert [headings(page).count(title) for title in of_each] == [3] * 4
    of_some = ("Where the time goes", "One call, from its start to its end", "encode, up to 8 at once")
    assert [headings(page).count(title) for title in of_some] == [2] * 3  # encode and round-trip; server and offered
    of_all = ("encode, 1 a call", "Memory", "From start to the first ids")
    assert [headings(page).count(title) for title in of_all] == [1] * 3
    of_limits = [title for title in headings(page) if "Roofline" in title or "Share of the peak" in title]
    assert len(of_limits) == 6
    assert len(drawn) == 3 * 4 + 2 * 3 + 3 + 6
    for chart in drawn:
        assert [child.tag for child in chart[:2]] == ["title", "desc"]
        assert chart[0].text
        assert len(chart[1].text or "") > 20
        assert chart.attrib["role"] == "img"
    for card in parse(page).all("div", "card"):
        assert list(card.all("dl", "facts")) or len(list(card.all("table"))) == 1


def test_every_figure_says_whose_it_is() -> None:
    for found, names in (([results()], {"bundle"}), (two(), {"bundle", "small-bundle"})):
        page = parse(render(found))
        figures = [card for card in page.all("div", "card") if list(card.all("svg"))]
        figures += [card for card in page.all("div", "long") if not card.one("h3").text.endswith(")")]
        assert len(figures) > 25
        for figure in figures:
            line = figure.one("p", "of").text
            assert set(re.split(r"Bundles?: |, ", line)) == {"", *names}, figure.one("h3").text
        # A colour belongs to one cell of one bundle.
        for figure in figures:
            keys = [key.text for key in figure.all("span", "key")]
            if len(names) > 1 and any("onnxruntime fp32" in key for key in keys):
                assert all(any(f"({name})" in key for key in keys) for name in names)


def test_rows_of_a_table_are_as_long_as_its_head() -> None:
    for found in ([results()], two()):
        for table in parse(render(found)).all("table"):
            columns = len(list(table.one("thead").all("th")))
            rows = [[*row.all("th"), *row.all("td")] for row in table.one("tbody").all("tr")]
            assert {sum(int(cell.attrs.get("colspan", "1")) for cell in row) for row in rows} == {columns}


def test_coordinates_lie_on_the_drawing() -> None:
    for chart in charts(render([results()])):
        check_on_the_drawing(chart)


def test_numbers_are_on_the_page() -> None:
    found = results()
    text = parse(render([found])).text
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
    for table in list(parse(render([found])).all("table"))[-2:]:
        rows = [row.one("th").text for row in table.one("tbody").all("tr")]
        assert rows[:2] == ["onnxruntime fp32 cpu 2 threads", "encode, single-stream, batch 1"]
        assert len(rows) == sum(1 + len(cell["measurements"]) for cell in found.data["cells"] if cell["measurements"])


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
    bars = [svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "Where the time of encode goes" in svg]
    assert any(f"host to device: {copied}" in svg for svg in bars)
    assert not any("compute" in svg for svg in bars), "it is the parts together, which are there one by one"
    rows = metric_rows(all_series([results()]))
    below = rows[rows.index(["tensorrt fp16 cuda:0"]) :]
    row = next(row for row in below if row[0] == "encode, single-stream, batch 1")
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


def test_warnings_that_say_the_same_are_one() -> None:
    data = document()
    cold = " did not warm up: raise --seconds (onnxruntime fp32 cpu)"
    names = [f"encode, single-stream, batch {batch}" for batch in (1, 4, 8)]
    fewer = [f"{name}: no rate" for name in names[:2]]
    data["noise"]["warnings"] = ["busy", *(name + cold for name in names), *fewer]
    lines = [line.text for line in parse(render([Results.check(data)])).one("section", "warnings").all("li")]
    assert lines[:4] == [
        "busy",
        f"3 measurements{cold}: {'; '.join(names)}",
        *fewer,
    ]


def test_a_measurement_that_was_not_warm_is_reported_even_if_the_file_does_not() -> None:
    data: Any = document()
    data["cells"][0]["measurements"][0]["warm"] = False
    assert "1 measurement never became stable" in render([Results.check(data)])


def test_several_files_are_distinguished() -> None:
    other: Any = document(seed=3)
    other["images"]["sha256"] = "e" * 64
    page = render([results(), Results.check(other, "other.json")])
    parse(page)
    assert "results.json (A) and other.json (B) did different work: the images differ" in page
    assert "onnxruntime fp32 cpu 2 threads, other.json" in page
    assert ", regression</td>" not in page, "other images are other work: no verdict"
    assert [title for title in headings(page) if "(A) and" in title] == []
    same = render([results(), results(factor=1.2)])
    assert "onnxruntime fp32 cpu 2 threads, results.json (2)" in same
    assert same.count(", regression</td>") > 40
    table = next(c for c in parse(same).all("div", "card") if "(A) and" in c.one("h3").text).one("table")
    head = [cell.text for cell in table.one("thead").all("th")]
    assert {"median", "throughput", "encoder", "peak host"} <= {*head}
    group, row, *_ = table.one("tbody").all("tr")
    assert (group.text, row.one("th").text) == ("onnxruntime fp32 cpu 2 threads", "encode, single-stream, batch 1")
    median = [cell.text for cell in row.all("td")][head.index("median") - 1]
    assert re.fullmatch(r"1\.\d{3} \(1\.\d{3} – 1\.\d{3}\), regression", median)


def test_a_page_over_two_bundles_has_the_names_of_both() -> None:
    page = parse(render(two()))
    assert page.one("head").one("title").text == "coda bench: bundle and small-bundle"
    assert page.one("h1").text == "bundle and small-bundle on Example Processor 9000 and Example GPU"
    assert "2 files, measured 2026-11-22T08:00:00Z with coda_runtime 0.1.0." in page.one("header").text
    tiles = page.one("header").text
    assert tiles.count("other.json (small-bundle)") == 4, "each figure says whose it is: the faster one's"
    assert "results.json (bundle)" not in tiles
    facts = [dd.text for dl in page.all("dl", "facts") for dd in dl.all("dd")]
    assert "/home/someone/bundles/small-bundle" in facts, "the whole path is in one place"


def test_the_title_names_what_ran_it() -> None:
    data = document()
    data["cells"] = [cell for cell in data["cells"] if cell["device"] == "cuda:0"]
    assert parse(render([Results.check(data)])).one("h1").text == "bundle on Example GPU"
    data = document()
    data["cells"] = [cell for cell in data["cells"] if cell["device"] == "cpu"]
    assert parse(render([Results.check(data)])).one("h1").text == "bundle on Example Processor 9000"


def test_bundles_are_told_apart_however_they_are_called() -> None:
    def names(*bundles: tuple[str, str]) -> list[str]:
        found = []
        for folder, manifest in bundles:
            data: Any = document()
            data["bundle"].update(folder=folder, manifest_sha256=manifest * 64)
            found.append(Results.check(data))
        return bundle_names(found)

    assert names(("/a/bundle", "1")) == ["bundle"]
    assert names(("/a/old", "1"), ("/a/new", "2")) == ["old", "new"]
    assert names(("/a/bundle", "1"), ("/b/bundle", "2")) == ["/a/bundle", "/b/bundle"]
    assert names(("/a/bundle", "1"), ("/a/bundle", "2")) == ["/a/bundle 11111111", "/a/bundle 22222222"]
    assert names(("/a/bundle", "1"), ("/b/bundle", "1")) == ["bundle", "bundle"], "one bundle, in two places"
    assert names((".", "1")) == ["."]


def test_all_runs_stand_beside_each_other() -> None:
    page = parse(render([*two(), Results.check(document(factor=1.2), "third.json")]))
    (card,) = [card for card in page.all("div", "card") if card.one("h3").text == "Every run"]
    head, *rows = card.all("tr")
    names = [cell.text for cell in head.all("th")][1:]
    assert len(names) == 3 * 3
    cells = {cell.text: [data.text for data in row.all("td")] for row in rows for cell in row.all("th")}
    first = two()[1].data["cells"][0]["measurements"][0]
    shown = cells["encode, single-stream, batch 1"][
        names.index("onnxruntime fp32 cpu 2 threads, other.json (small-bundle)")
    ]
    assert shown == f"{duration(first['latency_s']['p50'])}, {rate(first['throughput'])}/s"
    assert "Every run" not in headings(render([results()]))


def test_the_knee_is_marked_on_the_drawing() -> None:
    (card,) = [c for c in parse(render([results()])).all("div", "card") if c.one("h3").text == "encode, 1 a call"]
    rings = list(card.all("circle", "ring"))
    assert len(rings) == 3
    for ring in rings:
        style = ring.attrs["class"].removeprefix("ring ")
        marks = [(m.attrs["cx"], m.attrs["cy"]) for m in card.all("circle") if m.attrs["class"] == style]
        assert (ring.attrs["cx"], ring.attrs["cy"]) == marks[1], "the second of four: two callers"
    assert [text.text for text in card.all("text")].count("knee: 2 callers") == 3
    assert sum("(knee)" in row.text for row in card.all("tr")) == 3


def test_a_server_that_falls_behind_is_told_of() -> None:
    page = render([results()])
    searched, given = [c for c in parse(page).all("div", "card") if c.one("h3").text == "encode, up to 8 at once"]
    assert "falls behind" not in searched.text, "a rate that passes the bound is not tried to its end"
    behind = [row.text for row in given.all("tr") if "falls behind" in row.text]
    assert len(behind) == 3, "each cell at the highest rate alone"
    assert "bound" not in [key.text for key in given.all("span", "key")]
    few = [cell.text for row in given.all("tr") for cell in row.all("td") if cell.text.endswith(" *")]
    assert len(few) == 3 * 3, "fewer than 662 requests at 0.2, 0.4 and 0.6 of the rate"
    assert "* is of fewer than 662" in given.text


def test_one_call_is_drawn_from_its_start_to_its_end() -> None:
    found = results()
    data = found.data["cells"][0]["measurements"][0]["timeline"]
    assert data is not None
    card = next(c for c in parse(render([found])).all("div", "card") if c.one("h3").text.startswith("One call"))
    steps = [row.one("th").text for row in card.one("tbody").all("tr")]
    order = ["read file", "decode file", "resize", "encoder", "quantizer", "runtime", "the whole call"]
    assert steps == order
    first = [bar for bar in card.all("rect") if "threads" in bar.one("title").text and "onnx" in bar.one("title").text]
    bars = sorted((float(bar.attrs["x"]), float(bar.attrs["width"])) for bar in first)
    assert len(bars) == 5 + 6, "five steps, and the runtime before, between and after them"
    for (x, width), (following, _) in pairwise(bars):
        assert following == pytest.approx(x + width, abs=1.8), "no time is left out, and none counts twice"


def test_where_the_time_of_a_call_is_not_known_it_is_not_drawn() -> None:
    data: Any = document()
    for cell in data["cells"]:
        for of in cell["measurements"]:
            of["timeline"] = None
    assert "One call, from its start to its end" not in headings(render([Results.check(data)]))
    for cell in data["cells"]:
        for of in cell["measurements"]:
            del of["timeline"], of["roofline"]
    assert not any("Roofline" in title for title in headings(render([Results.check(data)])))


def test_parts_that_another_version_tells_of_have_their_own_colours() -> None:
    data: Any = document()
    del data["cells"][1:]
    of = data["cells"][0]["measurements"][0]
    of["parts_s"] |= {"to device": of["latency_s"]["p50"] / 9, "from device": of["latency_s"]["p50"] / 9}
    page = parse(render([Results.check(data)]))
    card = next(c for c in page.all("div", "card") if c.one("h3").text == "Where the time goes")
    keys = {key.text: key.attrs["class"] for key in card.all("span", "key")}
    assert [*keys] == ["encoder", "quantizer", "to device", "from device", "runtime"]
    assert len(set(keys.values())) == 5


@pytest.mark.parametrize("cells", [{"measurements": []}, {"measurements": [], "load": None, "artifacts": []}])
def test_nothing_measured_is_still_a_page(cells: dict[str, object]) -> None:
    page = render([changed(**cells)])
    parse(page)
    assert charts(page) == []


def test_what_is_not_known_leaves_no_chart() -> None:
    data: Any = document()
    for cell in data["cells"]:
        cell["load"] = None
        for of in cell["measurements"]:
            of.update(parts_s=None, flops_share=None, peak_host_bytes=None, peak_device_bytes=None)
        cell["measurements"] = [of for of in cell["measurements"] if of["scenario"] == "offline"]
    page = render([Results.check(data)])
    parse(page)
    assert len(charts(page)) == 3
    assert "Roofline" not in page
    assert "Share of what the machine can do" not in page


def with_evil(value: Any) -> Any:
    """Every text of a document in turn, but for those that the schema fixes: replaced by markup."""
    if isinstance(value, dict):
        kept = ("format", "created", "manifest_sha256", "sha256", "operation", "scenario")
        return {key: inner if key in kept else with_evil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_evil(inner) for inner in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


def test_text_of_the_file_is_escaped() -> None:
    data = with_evil(document(busy=True))
    data["machine"]["libraries"] = {EVIL: EVIL}
    data["bundle"]["spec"] = {EVIL: EVIL}
    for of in data["cells"][0]["measurements"]:
        if of["parts_s"]:
            of["parts_s"] |= {EVIL: 0.001}
    found = [Results.check(data, EVIL), Results.check(copy.deepcopy(data), "other" + EVIL)]
    page = parse(render(found))
    elements: list[Node] = list(page.all())
    assert {of.tag for of in elements} <= KNOWN
    assert {name for of in elements for name in of.attrs if name.startswith("on") or name in ("src", "href")} == set()
    # As it was, to be read: in the page's name, the facts, the charts' words, the tables, the warnings, the footer.
    for of in (page.one("head"), page.one("h1"), page.one("footer"), page.one("section", "warnings")):
        assert EVIL in of.text
    for tag in ("svg", "table", "li", "h3", "dd", "span"):
        assert any(EVIL in of.text for of in page.all(tag)), tag
    names = [of.attrs.get("aria-label", "") for of in elements]
    assert any(EVIL in name for name in names)


def test_no_results() -> None:
    with pytest.raises(InputError, match="at least one file"):
        render([])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_report([results()], tmp_path)
