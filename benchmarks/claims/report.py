"""Results as a table and curves: ``python -m benchmarks.claims.report claims.json --svg docs/images/claims.svg``.

A figure is the mean over seeds; after it, where there are several, half of its 95 % interval by Student's t.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.svg import standalone
from coda_runtime.report.charts import HEIGHT, Axis, Line, line_chart
from coda_runtime.report.markup import Markup, el

COLOURS = {
    "coda": "#2f6f8f",
    "warm": "#c07a2c",
    "warm_no_lora": "#e0b070",
    "nearest": "#7a4fa3",
    "single": "#a33b4a",
    "no_lora": "#5d7d2e",
    "no_entropy": "#777777",
    "vq": "#111111",
}

Runs = dict[str, list[dict[str, Any]]]
# 97.5 % quantiles of Student's t by degrees of freedom: as many seeds, less one.
STUDENT = (12.706, 4.303, 3.182, 2.776)


def by_variant(results: dict[str, Any]) -> Runs:
    """Return the runs of each variant, in the order of the table."""
    found = {name: [run for key, run in results["runs"].items() if key.partition("/")[0] == name] for name in COLOURS}
    return {name: runs for name, runs in found.items() if runs}


def figure(runs: list[dict[str, Any]], name: str, form: str, scale: float = 1.0) -> str:
    """Write the mean and interval of a figure over the runs that have it."""
    values = [scale * run[name] for run in runs if name in run]
    if not values:
        return "none"
    text = format(mean(values), form)
    if 2 <= len(values) <= len(STUDENT) + 1:
        text += f" ± {format(STUDENT[len(values) - 2] * stdev(values) / len(values) ** 0.5, form)}"
    return text


def rows(results: dict[str, Any]) -> list[list[str]]:
    """Return one row per variant."""
    return [
        [
            runs[0]["label"], figure(runs, "psnr", ".2f"), figure(runs, "lpips", ".3f"), figure(runs, "ssim", ".3f"),
            figure(runs, "continuous_psnr", ".2f"), figure(runs, "utilization", ".1f", 100.0),
            figure(runs, "perplexity", ".0f"), f"{sum(run['finite'] for run in runs)} of {len(runs)}",
            str(runs[0]["tokens"]), f"{runs[0]['bits_per_pixel']:.2f}", f"{runs[0]['steps']:,}",
            format(mean(run["cpu_seconds"] for run in runs), ".0f"),
        ]
        for runs in by_variant(results).values()
    ]  # fmt: skip


def curves(results: dict[str, Any]) -> Markup:
    """Plot held-out LPIPS against the training's CPU seconds, one line per run, with a list of the variants below."""
    variants = by_variant(results)
    kept = list(variants)
    lines = [
        Line(run["label"], [(p["cpu_seconds"], p["lpips"]) for p in run["curve"]], f"line {name}")
        for name, runs in variants.items()
        for run in runs
    ]
    inner = line_chart(lines, Axis("CPU seconds of training"), Axis("held-out LPIPS"), "LPIPS against training time")
    keys = [
        el(
            "g",
            el("rect", x=66, y=HEIGHT + 10 + 20 * i, width=14, height=4, fill=COLOURS[name]),
            el("text", variants[name][0]["label"], x=88, y=HEIGHT + 16 + 20 * i),
        )
        for i, name in enumerate(kept)
    ]
    return standalone(inner, colours=COLOURS, below="".join(keys), more=20 * len(kept) + 20)


def main() -> None:
    """Print the table as Markdown; write the curves where asked."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    results = json.loads(args.results.read_text(encoding="utf-8"))
    names = ["PSNR", "LPIPS", "SSIM", "continuous", "% used", "perplexity", "finite", "tokens", "bits/pixel", "steps",
             "CPU-s"]  # fmt: skip
    print("|", " | ".join(["", *names]), "|")
    print("|", " | ".join(["---"] * (len(names) + 1)), "|")
    for row in rows(results):
        print("|", " | ".join(row), "|")
    if args.svg:
        args.svg.write_text(f"{curves(results)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
