"""Results as a table and curves: ``python -m benchmarks.claims.report claims.json --svg docs/images/claims.svg``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from coda_runtime.report.charts import HEIGHT, WIDTH, Axis, Line, line_chart
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
STYLE = """
.chart { background: #ffffff; font-family: system-ui, sans-serif; }
.chart text { fill: #5c606b; font-size: 13px; }
.chart .axis { fill: #22242a; }
.chart .grid { stroke: #e4e1da; }
.chart .tick { stroke: #5c606b; }
.chart polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
"""


def rows(results: dict[str, Any]) -> list[list[str]]:
    """One row a variant."""
    return [
        [
            found["label"], f"{found['psnr']:.2f}", f"{found['ssim']:.3f}", f"{found['continuous_psnr']:.2f}",
            f"{found['utilization']:.1%}", f"{found['perplexity']:.0f}", str(found["tokens"]),
            f"{found['bits_per_pixel']:.2f}", f"{found['steps']:,}", f"{found['cpu_seconds']:.0f}",
        ]
        for found in (results[name] for name in COLOURS if name in results)
    ]  # fmt: skip


def curves(results: dict[str, Any]) -> Markup:
    """Held-out PSNR against the CPU seconds of the training, one line a variant, named in a list below."""
    kept = [name for name in COLOURS if name in results]
    lines = [
        Line(results[name]["label"], [(p["cpu_seconds"], p["psnr"]) for p in results[name]["curve"]], f"line {name}")
        for name in kept
    ]
    inner = line_chart(lines, Axis("CPU seconds of training"), Axis("held-out PSNR, dB"), "PSNR against training time")
    keys = [
        el(
            "g",
            el("rect", x=66, y=HEIGHT + 10 + 20 * i, width=14, height=4, fill=COLOURS[name]),
            el("text", results[name]["label"], x=88, y=HEIGHT + 16 + 20 * i),
        )
        for i, name in enumerate(kept)
    ]
    colours = "".join(f".chart .{name} {{ stroke: {colour}; }}\n" for name, colour in COLOURS.items())
    height = HEIGHT + 20 * len(kept) + 20
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    svg = inner.replace(box, f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"', 1)
    return Markup(svg.replace("</svg>", f"{''.join(keys)}<style>{STYLE}{colours}</style></svg>"))


def main() -> None:
    """Print the table as Markdown; write the curves where asked."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    results = json.loads(args.results.read_text(encoding="utf-8"))
    names = ["PSNR", "SSIM", "continuous", "use", "perplexity", "tokens", "bits/pixel", "steps", "CPU-s"]
    print("|", " | ".join(["", *names]), "|")
    print("|", " | ".join(["---"] * (len(names) + 1)), "|")
    for row in rows(results):
        print("|", " | ".join(row), "|")
    if args.svg:
        args.svg.write_text(f"{curves(results)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
