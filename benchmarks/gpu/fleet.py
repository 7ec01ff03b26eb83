"""Results of several machines as one table, a row a GPU, shape and precision, and as a chart.

They are of either tool, gpu.json or results.json of `coda bench run`, read and checked as the runtime reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from coda_runtime.bench.results import Cell, Results
from coda_runtime.errors import InputError
from coda_runtime.report.charts import Axis, bar_rows
from coda_runtime.report.charts import Row as Bar
from coda_runtime.report.markup import Markup


@dataclass(frozen=True)
class Best:
    """The fastest contender of an operation on a GPU, at the batch that gives most images a second."""

    images_per_second: float
    contender: str
    batch: int
    repeats: int

    def __str__(self) -> str:
        """As in "1,204 (onnxruntime, batch 32, 40 calls)"."""
        return f"{self.images_per_second:,.0f} ({self.contender}, batch {self.batch}, {self.repeats} calls)"


@dataclass(frozen=True)
class Entry:
    """One row: what a GPU reaches with a shape in a precision; dollars an hour where somebody gave them."""

    device: str
    driver: str
    date: str
    shape: str
    precision: str
    encode: Best | None
    decode: Best | None
    price: float | None

    @property
    def per_dollar(self) -> float | None:
        """Images encoded for a dollar."""
        if self.price is None or self.encode is None:
            return None
        return self.encode.images_per_second * 3600 / self.price


def entries(results: Sequence[Results], prices: Mapping[str, float]) -> list[Entry]:
    """Return a row for each device, shape and precision that was measured, the fastest device of a shape first.

    ``prices`` are dollars an hour by a device's name or whole words of it ("A10" is no A100); of several that fit, the
    longest counts. What counts is encode and decode from numpy to numpy, one call after the other. Raises InputError
    for a price of nothing.
    """
    found = []
    for of in results:
        spec = of.data["bundle"]["spec"]
        shape = str(spec.get("variant") or of.data["bundle"]["folder"])
        cells: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in of.data["cells"]:
            if cell["measurements"]:
                cells.setdefault((*_device(of, cell), cell["precision"]), []).append(cell)
        for (device, driver, precision), same in cells.items():
            best = {operation: _best(same, operation) for operation in ("encode", "decode")}
            if any(best.values()):
                price = _price(device, prices)
                date = of.data["created"][:10]
                found.append(Entry(device, driver, date, shape, precision, **best, price=price))
    devices = dict.fromkeys(entry.device for entry in found)
    for name in prices:
        if not any(_names(name, device) for device in devices):
            known = " or ".join(devices) or "a measured GPU"
            raise InputError(f"--price names {name!r}; expected whole words of {known}")
    return sorted(found, key=lambda entry: (entry.shape, entry.precision, -_rate(entry.encode)))


def table(found: Sequence[Entry]) -> str:
    """Return Markdown for docs/gpu.md."""
    priced = any(entry.price is not None for entry in found)
    head = ["GPU", "shape", "precision", "encode, images/s", "decode, images/s", "driver, date"]
    head += ["$ an hour", "images encoded for a dollar"] if priced else []
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for entry in found:
        cells = [entry.device, entry.shape, entry.precision, _words(entry.encode), _words(entry.decode)]
        cells.append(", ".join(filter(None, (entry.driver, entry.date))))
        if priced:
            cells.append("–" if entry.price is None else f"{entry.price:g}")
            cells.append("–" if entry.per_dollar is None else f"{entry.per_dollar:,.0f}")
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def chart(found: Sequence[Entry]) -> Markup:
    """Draw images encoded a second, a bar for each row."""
    bars = [
        Bar(
            f"{entry.device}, {entry.shape}, {entry.precision}",
            f"{entry.encode.images_per_second:,.0f}",
            [("series c1", entry.encode.images_per_second, str(entry.encode))],
        )
        for entry in found
        if entry.encode is not None
    ]
    described = "; ".join(f"{bar.label}: {bar.end} images per second" for bar in bars)
    return bar_rows(bars, Axis("images encoded per second"), described, title="Encoding on each GPU")


def parse_prices(given: Sequence[str]) -> dict[str, float]:
    """Return dollars an hour by name, of "H200=3.5" and the like. Raises InputError."""
    found = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = math.nan
        if not (name and equals and price > 0 and math.isfinite(price)):
            raise InputError(f"--price is {text!r}; expected a GPU's name and dollars an hour, such as H200=3.5")
        found[name] = price
    return found


def _device(of: Results, cell: Cell) -> tuple[str, str]:
    """The name and the driver of what a cell ran on."""
    machine, ran = of.data["machine"], {artifact["device"] or "" for artifact in cell["artifacts"]} | {cell["device"]}
    on_gpu = [name for name in ran if name.startswith("cuda")]
    if on_gpu and machine["gpus"]:
        number = int(min(on_gpu).partition(":")[2].partition("+")[0] or 0)
        gpu = next((gpu for gpu in machine["gpus"] if gpu["index"] == number), machine["gpus"][0])
        return gpu["name"], gpu["driver"] or ""
    return machine["cpu"]["model"] or "a CPU", ""


def _best(cells: Sequence[Cell], operation: str) -> Best | None:
    def candidates() -> Iterator[Best]:
        for cell in cells:
            for of in cell["measurements"]:
                if (of["operation"], of["scenario"]) == (operation, "single-stream"):
                    yield Best(of["throughput"], _contender(cell), of["batch"], of["repeats"])

    return max(candidates(), key=lambda best: best.images_per_second, default=None)


def _contender(cell: Cell) -> str:
    """What ran: where `coda bench` was left the choice, what it became."""
    ran = dict.fromkeys(artifact["backend"] for artifact in cell["artifacts"])
    return ", ".join(ran) if cell["backend"] == "auto" and ran else cell["backend"]


def _price(device: str, prices: Mapping[str, float]) -> float | None:
    named = [name for name in prices if _names(name, device)]
    return prices[max(named, key=len)] if named else None


def _names(name: str, device: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", device) is not None


def _rate(best: Best | None) -> float:
    return 0.0 if best is None else best.images_per_second


def _words(best: Best | None) -> str:
    return "–" if best is None else str(best)
