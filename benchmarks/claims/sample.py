"""The sample's trainings side by side: ``python -m benchmarks.claims.sample --svg docs/images/sample-runs.svg``.

Prints the figures of ``results/sample-runs.json``, which `coda eval` gave, as Markdown; draws the committed logs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.svg import STYLE
from coda_runtime.report.charts import HEIGHT, WIDTH, Axis, Line, line_chart
from coda_runtime.report.markup import Markup, el

RESULTS = Path(__file__).parents[1] / "results"
FIGURES = {
    "PSNR": ("psnr", "{:.2f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "MS-SSIM": ("ms_ssim", "{:.3f}"),
    "LPIPS": ("lpips", "{:.3f}"),
    "Alex": ("lpips_alex", "{:.3f}"),
    "DISTS": ("dists", "{:.3f}"),
    "SSIMULACRA 2": ("ssimulacra2", "{:.1f}"),
    "codes in use": ("codebook_utilization", "{:.1%}"),
    "perplexity": ("codebook_perplexity", "{:.0f}"),
}


@dataclass(frozen=True)
class Run:
    """One run: its key in the results, its words, the colour of its line and its logs."""

    key: str
    label: str
    colour: str
    vae: str
    tokenizer: str


RUNS = (
    Run("sample", "1, ships", "#2f6f8f", "sample-vae", "sample-tokenizer"),
    Run("sample-kl", "2, kl = 6e-6", "#c07a2c", "sample-kl-vae", "sample-kl-tokenizer"),
    Run("sample-kl-rate", "3, kl = 6e-6, twice the rate", "#7a4fa3", "sample-kl-vae", "sample-kl-rate-tokenizer"),
)
# Key of the log, words for the axis, factor; the VAE's above, then the tokenizer's.
PANELS = (
    ("vae", "lpips", "VAE: LPIPS", 1),
    ("vae", "kl", "VAE: KL, nats an image", 1),
    ("tokenizer", "lpips", "tokens: LPIPS", 1),
    ("tokenizer", "psnr", "tokens: PSNR, dB", 1),
    ("tokenizer", "vq", "tokens: vq", 1),
    ("tokenizer", "entropy", "tokens: entropy", 1),
    ("tokenizer", "utilization", "tokens: codes in use, %", 100),
    ("tokenizer", "prefix", "tokens: prefix", 1),
)


def log(name: str) -> list[dict[str, float]]:
    """A log's lines, less a last one of fewer steps than the others, whose figures are not theirs."""
    lines = [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    every = lines[0]["step"]
    return [line for line in lines if line["step"] % every == 0]


def curves() -> Markup:
    """Two panels a row, the runs named below."""
    panels = []
    for index, (part, key, words, factor) in enumerate(PANELS):
        lines, seen = [], set()
        for run in RUNS:
            if (name := getattr(run, part)) not in seen:  # two runs have one VAE
                seen.add(name)
                points = [(line["step"], factor * line[key]) for line in log(name)]
                lines.append(Line(run.label, points, f"line {run.key}"))
        chart = line_chart(lines, Axis("step"), Axis(words), f"{words} by step")
        place = f'x="{index % 2 * WIDTH}" y="{index // 2 * HEIGHT}" width="{WIDTH}" height="{HEIGHT}" viewBox='
        panels.append(Markup(chart.replace("viewBox=", place, 1)))
    base = HEIGHT * ((len(PANELS) + 1) // 2)
    keys = [
        el(
            "g",
            el("rect", x=72 + 260 * index, y=base + 10, width=14, height=4, fill=run.colour),
            el("text", run.label, x=94 + 260 * index, y=base + 16),
        )
        for index, run in enumerate(RUNS)
    ]
    colours = "".join(f".chart .{run.key} {{ stroke: {run.colour}; }}\n" for run in RUNS)
    return el(
        "svg",
        panels,
        keys,
        Markup(f"<style>{STYLE}{colours}</style>"),
        xmlns="http://www.w3.org/2000/svg",
        class_="chart",
        viewBox=f"0 0 {2 * WIDTH} {base + 30}",
        role="img",
        aria_label="Three trainings of the sample, their losses by step",
    )


def table(results: dict[str, Any], images: str) -> list[list[str]]:
    """Rows of text: of each run its tokens, and of each VAE what it does without them."""
    kept = {words: figure for words, figure in FIGURES.items() if figure[0] in results[RUNS[0].key][images]}
    if images == "photographs":  # eight have too few tokens to say how many codes are in use
        kept = {words: figure for words, figure in kept.items() if not figure[0].startswith("codebook")}
    rows, seen = [["run", *kept]], set()
    for run in RUNS:
        found = results[run.key][images]
        rows.append([run.label, *(form.format(found[key]).replace("%", " %") for key, form in kept.values())])
    for run in RUNS:
        if run.vae not in seen:
            seen.add(run.vae)
            found = results[run.key][images]
            values = [form.format(found[f"vae_{key}"]) if f"vae_{key}" in found else "" for key, form in kept.values()]
            rows.append([f"VAE of {run.label.partition(',')[0]}", *values])
    return rows


def main() -> None:
    """Print both tables as Markdown; write the curves where asked."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    results = json.loads((RESULTS / "sample-runs.json").read_text(encoding="utf-8"))
    for images in ("photographs", "held_out"):
        first, *rows = table(results, images)
        for row in (first, ["---"] * len(first), *rows):
            print("|", " | ".join(row), "|")
        print()
    if args.svg:
        args.svg.write_text(f"{curves()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
