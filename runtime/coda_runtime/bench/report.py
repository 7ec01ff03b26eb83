"""The page of `coda bench report`: one HTML file that needs nothing beside it, with every number of the results."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from ..io.atomic_files import staged_file
from ..io.counts import count
from ..report import made_with
from ..report.document import document, tile
from ..report.markup import Markup, el, join, table
from ..report.words import duration, rate, size
from . import bars, charts, roofline_chart
from .cards import scrolled, whose
from .compare import compare
from .differences import other_circumstances, other_work, share_a_tokenizer, warnings_of
from .load_charts import callers_cards, rate_cards
from .results import Document, Results
from .series import Series, all_series, bundle_names, file_names, operations
from .tables import MEASURED, METRICS, compared_rows, loaded, measured_rows, metric_rows, side_by_side
from .timeline_chart import timeline_card

_OF_ONE = re.compile(r"([\w-]+, [\w-]+, batch \d+)(\b.*)", re.DOTALL)
"""A warning of one measurement: which, and what of it."""
_SEVERAL = 3


def write_report(results: Sequence[Results], out: Path) -> None:
    """Write the page of one or several results. Raises InputError for none, and OutputError."""
    page = render(results)
    with staged_file(out) as beside:
        beside.write_text(page, encoding="utf-8")


def render(results: Sequence[Results]) -> str:
    """Return the page. Raises InputError for no results."""
    if not results:
        raise InputError("there are no results to report; give at least one file that `coda bench run --out` wrote")
    series = all_series(results)
    return document(
        f"coda bench: {_bundles(results)}",
        _header(results, series),
        _warnings(results),
        _circumstances(results, series),
        _side_by_side(results, series),
        [_operation(series, name) for name in operations(series)],
        _section(
            "As a server",
            "Single images arrive at random, at a rate that is raised until the 99th percentile of the time from "
            "arrival to done passes the bound.",
            [card for name in operations(series) for card in rate_cards(series, name, "server")],
        ),
        _section(
            "At rates that were given",
            "Single images arrive at random and are not held back where the last ones are not done yet. A latency "
            "counts from when an image was due.",
            [card for name in operations(series) for card in rate_cards(series, name, "offered")],
        ),
        _section(
            "Several callers",
            "Threads that call one tokenizer, each again as soon as it has its answer.",
            [card for name in operations(series) for card in callers_cards(series, name)],
        ),
        _section(
            "Share of what the machine can do",
            "Only where the arithmetic of a part and the peak of the processor are known.",
            [
                card
                for name in operations(series)
                for card in (roofline_chart.roofline_card(series, name), roofline_chart.share_card(series, name))
            ],
        ),
        _section(
            "Memory and loading",
            "Each cell ran in its own process.",
            [bars.memory_card(series), bars.load_card(series)],
        ),
        _numbers(series) if series else "",
        footer=made_with.footer(_made_with(results)),
    )


def _made_with(results: Sequence[Results]) -> dict[str, str]:
    """Return what made each file, under its name where there are several."""
    facts: dict[str, str] = {}
    for name, found in zip(file_names(results), results, strict=True):
        of = f" of {name}" if len(results) > 1 else ""
        data, libraries = found.data, found.data["machine"]["libraries"]
        versions = {"coda-runtime": data["coda_runtime"], **libraries}
        facts |= {
            f"Command{of}": shlex.join(data["command"]),
            f"Made{of}": data["created"],
            f"Machine{of}": ", ".join(_processors(data)),
            f"System{of}": f"{data['machine']['platform']}, Python {data['machine']['python']}",
            f"Versions{of}": ", ".join(f"{package} {version}" for package, version in versions.items()),
        }
    return facts


def _header(results: Sequence[Results], series: Sequence[Series]) -> Markup:
    measured = [of for one in series for of in one.cell["measurements"]]
    tiles = [tile("Measurements", f"{len(measured)}", f"of {count(len(series), 'cell')}")]
    for name in operations(series):
        calls = [(of, one) for one in series for of in one.of(name, "single-stream") if of["batch"] == 1]
        if calls:
            of, one = min(calls, key=lambda pair: pair[0]["latency_s"]["p50"])
            tiles.append(tile(f"{name}, one image", duration(of["latency_s"]["p50"]), f"fastest median: {one.name}"))
    encodes = [(of, one) for one in series for of in one.cell["measurements"] if of["operation"] == "encode"]
    if encodes:
        of, one = max(encodes, key=lambda pair: pair[0]["throughput"])
        tiles.append(tile("encode, at most", f"{rate(of['throughput'])}/s", f"images, batch {of['batch']}: {one.name}"))
    times = sorted({of.data["created"] for of in results})
    versions = " and ".join(sorted({of.data["coda_runtime"] for of in results}))
    files = "Measured" if len(results) == 1 else f"{count(len(results), 'file')}, measured"
    return el(
        "header",
        el("p", "coda bench", class_="eyebrow"),
        el("h1", f"{_bundles(results)} on {_machines(results)}"),
        el("p", f"{files} {' to '.join(times[:1] + times[1:][-1:])} with coda_runtime {versions}.", class_="lead name"),
        el("dl", tiles, class_="tiles"),
    )


def _bundles(results: Sequence[Results]) -> str:
    """Name all of them: a page over two must not read as if it were one's."""
    return " and ".join(dict.fromkeys(bundle_names(results)))


def _machines(results: Sequence[Results]) -> str:
    return " and ".join(dict.fromkeys(name for of in results for name in _processors(of.data)))


def _processors(data: Document) -> Iterator[str]:
    """Yield the names of what ran something: GPUs by their names, and the processor unless all of it ran on those."""
    machine = data["machine"]
    devices = {artifact["device"] or "" for cell in data["cells"] for artifact in cell["artifacts"]}
    gpus = {f"cuda:{gpu['index']}": gpu["name"] for gpu in machine["gpus"]}
    if not devices or not devices <= gpus.keys():
        yield machine["cpu"]["model"] or machine["platform"]
    yield from (gpus[device] for device in sorted(devices & gpus.keys()))


def _files(results: Sequence[Results]) -> list[str]:
    """Return what to call each file, with its bundle."""
    return [f"{name} ({bundle})" for name, bundle in zip(file_names(results), bundle_names(results), strict=True)]


def _side_by_side(results: Sequence[Results], series: Sequence[Series]) -> Markup:
    """Show all runs beside each other, and how `coda bench compare` judges the first file against each other."""
    if len(results) == 1 or not series:
        return Markup("")
    columns, rows = side_by_side(series)
    title = "Every run"
    cards = [el("div", el("h3", title), whose(series), scrolled(table(columns, rows), title), class_="card wide long")]
    for first, base, name, other in _pairs(_files(results), results):
        columns, rows = compared_rows(compare(base, other))
        title = f"{first} (A) and {name} (B)"
        if rows:
            head = el("h3", title, class_="name")
            cards.append(el("div", head, scrolled(table(columns, rows), title), class_="card wide long"))
    return _section(
        "Side by side",
        "Verdicts are those of `coda bench compare`, by the differences between processes; there are none where the "
        "runs did different work.",
        cards,
    )


def _pairs(names: Sequence[str], results: Sequence[Results]) -> Iterator[tuple[str, Results, str, Results]]:
    """Yield each file but the first beside an earlier one, of the same tokenizer if there is one, with their names."""
    named = list(zip(names, results, strict=True))
    for index, (name, of) in enumerate(named[1:], 1):
        earlier = [pair for pair in named[:index] if of.file is None or pair[1].file != of.file]
        same = [pair for pair in earlier if share_a_tokenizer(pair[1], of)]
        for base in (same or earlier)[:1]:
            yield *base, name, of


def _warnings(results: Sequence[Results]) -> Markup:
    """Show everything that makes the numbers below doubtful, before them."""
    names = file_names(results)
    found = [
        (f"{name}: {text}" if len(results) > 1 else text)
        for name, of in zip(names, results, strict=True)
        for text in _together((*warnings_of(of), *_not_warm(of)))
    ]
    for first, base, name, other in _pairs(names, results):
        found += [f"{first} (A) and {name} (B) did different work: {text}" for text in other_work(base, other)]
        found += [f"{first} (A) and {name} (B): {text}" for text in other_circumstances(base, other)]
    if not found:
        return Markup("")
    return el(
        "section",
        el("h2", "Read these numbers with care"),
        el("ul", [el("li", text) for text in found]),
        class_="warnings name",
    )


def _together(warnings: Sequence[str]) -> list[str]:
    """Make one of those that say the same of several measurements: a busy machine has one for each."""
    groups: dict[str, list[str]] = {}
    for text in warnings:
        found = _OF_ONE.fullmatch(text)
        groups.setdefault(found[2] if found else text, []).append(found[1] if found else "")
    out = []
    for what, names in groups.items():
        if len(names) < _SEVERAL or not all(names):
            out += [f"{name}{what}" for name in names]
        else:
            out.append(f"{count(len(names), 'measurement')}{what}: {'; '.join(names)}")
    return out


def _not_warm(results: Results) -> list[str]:
    """Return a count, where the file itself says nothing of it."""
    cold = [of for cell in results.data["cells"] for of in cell["measurements"] if not of["warm"]]
    if not cold or any("warm up" in warning for warning in results.data["noise"]["warnings"]):
        return []
    return [f"{count(len(cold), 'measurement')} never became stable in the warm-up"]


def _circumstances(results: Sequence[Results], series: Sequence[Series]) -> Markup:
    """Show the machine, bundle and images of each file, and what was loaded."""
    cards = [
        el(
            "div",
            el("h3", name, class_="name"),
            el("dl", [join(el("dt", key), el("dd", text, class_="name")) for key, text in _facts(of)], class_="facts"),
            class_="card" if len(results) > 1 else "card wide",
        )
        for name, of in zip(file_names(results), results, strict=True)
    ]
    columns, rows = loaded(series)
    title = "What was loaded"
    files = el("div", el("h3", title), whose(series), scrolled(table(columns, rows), title), class_="card wide")
    return _section("What ran, and where", "", [*cards, files if rows else Markup("")])


def _facts(results: Results) -> list[tuple[str, str]]:
    data = results.data
    machine, bundle, noise = data["machine"], data["bundle"], data["noise"]
    cpu = machine["cpu"]
    clocks = [
        f"{clock:,.0f} MHz {what}"
        for clock, what in ((cpu["frequency_mhz"], "now"), (cpu["max_frequency_mhz"], "at most"))
        if clock is not None
    ]
    facts = [
        ("Processor", ", ".join([cpu["model"] or "unknown", count(cpu["cores"], "core"), *clocks])),
        ("Governor", cpu["governor"] or "unknown"),
        ("Memory", size(machine["memory_bytes"]) if machine["memory_bytes"] is not None else "unknown"),
        ("System", f"{machine['platform']}, Python {machine['python']}"),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())),
    ]
    for gpu in machine["gpus"]:
        memory = "unknown memory" if gpu["memory_bytes"] is None else size(gpu["memory_bytes"])
        facts.append((f"GPU {gpu['index']}", f"{gpu['name']}, {memory}, driver {gpu['driver'] or 'unknown'}"))
    spec = ", ".join(f"{key} {value}" for key, value in bundle["spec"].items() if isinstance(value, str | int))
    facts += [
        ("Bundle", bundle["folder"]),
        ("Tokenizer", spec or "unknown"),
        ("Manifest", f"sha256 {bundle['manifest_sha256'][:16]}…"),
        ("Images", f"{data['images']['count']} of {data['images']['source'] or 'memory'}"),
        ("CPU used by others", f"{_load(noise['load_before'])} before, {_load(noise['load_during'])} during"),
        ("Clock held back", {None: "unknown", True: "yes", False: "no"}[noise["throttled"]]),
    ]
    return facts


def _load(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def _operation(series: Sequence[Series], name: str) -> Markup:
    return _section(
        name.capitalize(),
        "",
        [
            charts.latency_card(series, name),
            charts.distribution_card(series, name),
            charts.throughput_card(series, name),
            charts.processes_card(series, name),
            timeline_card(series, name),
            bars.breakdown_card(series, name),
        ],
    )


def _numbers(series: Sequence[Series]) -> Markup:
    """Show every number, in two tables since one would not fit a page."""
    return el(
        "section",
        el("h2", "Every number"),
        el(
            "p",
            "CI: 95 % confidence interval. Outliers lie three interquartile ranges outside the quartiles, and count in "
            "every number.",
        ),
        el(
            "div",
            [
                el("div", el("h3", title), whose(series), scrolled(table(columns, rows), title), class_="card long")
                for title, columns, rows in (
                    ("Durations", MEASURED, measured_rows(series)),
                    ("Throughput, memory and conduct", METRICS, metric_rows(series)),
                )
            ],
            class_="stack",
        ),
    )


def _section(title: str, about: str, cards: Sequence[Markup]) -> Markup:
    shown = [card for card in cards if card]
    if not shown:
        return Markup("")
    return el("section", el("h2", title), el("p", about) if about else "", el("div", shown, class_="pairs flow"))
