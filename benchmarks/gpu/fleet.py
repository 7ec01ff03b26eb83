"""Results of several GPUs as one table, a row a GPU, shape and precision, and as a chart; files are checked first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coda_runtime.report.charts import Axis, bar_rows
from coda_runtime.report.charts import Row as Bar
from coda_runtime.report.markup import Markup

Row = dict[str, Any]
# What a file must have; what else it has is kept.
_MACHINE = {"device": str, "date": str, "cpu": str, "libraries": dict, "ceilings": dict}
_ROW = {"shape": str, "contender": str, "precision": str, "operation": str, "clock": str, "batch": int}
_MEASURED = {"median_ms": (int, float), "repeats": int}


class ResultError(Exception):
    """A file that is no result of `python -m benchmarks.gpu run`; the message names the first thing that is wrong."""


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


def read(path: Path) -> dict[str, Any]:
    """Read and check a result. Raises ResultError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ResultError(f"{path}: found {type(data).__name__}, expected an object")
    _check(data.get("machine"), _MACHINE, f"{path}: machine")
    rows = data.get("rows")
    if not isinstance(rows, list) or not rows:
        raise ResultError(
            f"{path}: rows: found {'none' if rows == [] else type(rows).__name__}, expected a list of rows"
        )
    for index, row in enumerate(rows):
        where = f"{path}: rows[{index}]"
        _check(row, _ROW, where)
        if "reason" not in row:
            _check(row, _MEASURED, where)
            if not (math.isfinite(row["median_ms"]) and row["median_ms"] > 0):
                raise ResultError(f"{where}.median_ms: found {row['median_ms']}, expected milliseconds over 0")
    return data


def entries(results: Sequence[dict[str, Any]], prices: Mapping[str, float]) -> list[Entry]:
    """Return a row for each GPU, shape and precision that was measured, the fastest GPU of a shape first.

    ``prices`` are dollars an hour by a GPU's name, or a part of it that only one of the GPUs has.
    """
    found = []
    for result in results:
        machine = result["machine"]
        driver = machine.get("nvidia_smi_after_ceilings", {}).get("driver_version", "")
        whole = [row for row in result["rows"] if "reason" not in row and row["clock"] == "host"]
        for shape, precision in dict.fromkeys((row["shape"], row["precision"]) for row in whole):
            of = [row for row in whole if (row["shape"], row["precision"]) == (shape, precision)]
            best = {operation: _best(of, operation) for operation in ("encode", "decode")}
            price = _price(machine["device"], prices)
            found.append(Entry(machine["device"], driver, machine["date"], shape, precision, **best, price=price))
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
        lines.append(f"| {' | '.join(cells)} |")
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
    """Return dollars an hour by name, of "H200=3.5" and the like. Raises ResultError."""
    found = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = math.nan
        if not (name and equals and price > 0 and math.isfinite(price)):
            raise ResultError(f"--price is {text!r}; expected a GPU's name and dollars an hour, such as H200=3.5")
        found[name] = price
    return found


def _check(data: Any, expected: Mapping[str, Any], where: str) -> None:
    if not isinstance(data, dict):
        raise ResultError(f"{where}: found {type(data).__name__}, expected an object")
    for key, kind in expected.items():
        value = data.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            names = kind.__name__ if isinstance(kind, type) else "a number"
            raise ResultError(f"{where}.{key}: found {type(value).__name__}, expected {names}")


def _best(rows: Sequence[Row], operation: str) -> Best | None:
    def candidates() -> Iterator[Best]:
        for row in rows:
            if row["operation"] == operation:
                rate = 1e3 * row["batch"] / row["median_ms"]
                yield Best(rate, row["contender"], row["batch"], row["repeats"])

    return max(candidates(), key=lambda best: best.images_per_second, default=None)


def _price(device: str, prices: Mapping[str, float]) -> float | None:
    named = [price for name, price in prices.items() if name in device]
    return named[0] if len(named) == 1 else None


def _rate(best: Best | None) -> float:
    return 0.0 if best is None else best.images_per_second


def _words(best: Best | None) -> str:
    return "–" if best is None else str(best)
