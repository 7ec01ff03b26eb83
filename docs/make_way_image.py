"""Draw the way from a checkpoint to a product: ``python docs/make_way_image.py docs/images/way.svg``.

Its colours follow the reader's theme, light or dark.
"""

from __future__ import annotations

import sys
from pathlib import Path

from coda_runtime.report.markup import Markup, el, join

WIDTH, HEIGHT = 1000, 344
BOX, TALL = 190, 84
STYLE = """
text { font: 15px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: #22242a; text-anchor: middle; }
.title { font-weight: 600; }
.small { font-size: 12.5px; fill: #5c606b; }
.command { font: 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #2f6f8f; }
rect { fill: #ffffff; stroke: #c9c6bf; }
.bundle { fill: #eaf3f7; stroke: #2f6f8f; stroke-width: 1.5; }
.band { fill: none; stroke: #c9c6bf; stroke-dasharray: 4 4; }
path { fill: none; stroke: #5c606b; stroke-width: 1.6; marker-end: url(#tip); }
#tip path { fill: #5c606b; stroke: none; marker-end: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #e7e6e2; }
  .small { fill: #a6a9b2; }
  .command { fill: #7cc0dd; }
  rect { fill: #1d2026; stroke: #4a4f5a; }
  .bundle { fill: #1b2b33; stroke: #7cc0dd; }
  .band { fill: none; stroke: #4a4f5a; }
  path { stroke: #a6a9b2; }
  #tip path { fill: #a6a9b2; }
}
"""


def main(out: str) -> None:
    """Write the image."""
    alt = (
        "A tokenizer comes from coda import-official or coda train. coda export folds it into a bundle of ONNX graphs, "
        "measured beside it. coda_runtime runs it without PyTorch: in an application, as a server, over a dataset."
    )
    tip = el(
        "marker", el("path", d="M0,0 L9,4.5 L0,9 z"), id="tip", markerWidth=9, markerHeight=9, refX=8, refY=4.5,
        orient="auto", markerUnits="userSpaceOnUse",
    )  # fmt: skip
    drawing = el(
        "svg",
        el("title", alt),
        el("style", Markup(STYLE)),
        el("defs", tip),
        _band(4, 446, "with PyTorch: coda-deploy"),
        _band(466, 530, "without: coda-runtime, numpy and an engine library"),
        _box(20, 76, "Published checkpoint", "MAR f16, FLUX f8", "coda import-official"),
        _box(20, 200, "Your images", "and a continuous VAE", "coda train"),
        _box(244, 138, "Tokenizer", "safetensors, JSON", "coda export"),
        _box(482, 138, "Bundle", "ONNX, tables, checksums", "coda verify", "bundle"),
        _box(790, 48, "Your application", "arrays, files, DLPack", "coda_runtime.load"),
        _box(790, 142, "A server", "REST, gRPC, Triton", "coda serve"),
        _box(790, 236, "Tokens of a dataset", "Parquet, on Ray", "coda tokenize"),
        _arrow("M210,118 C228,118 228,168 242,168"),
        _arrow("M210,242 C228,242 228,192 242,192"),
        _arrow("M434,180 L480,180"),
        _arrow("M672,168 C732,168 732,90 788,90"),
        _arrow("M672,180 C732,180 732,184 788,184"),
        _arrow("M672,192 C732,192 732,278 788,278"),
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT, role="img",
    )  # fmt: skip
    Path(out).write_text(f"{drawing}\n", encoding="utf-8")


def _box(x: int, y: int, title: str, about: str, command: str, style: str | None = None) -> Markup:
    middle = x + BOX / 2
    return join(
        el("rect", x=x, y=y, width=BOX, height=TALL, rx=10, class_=style),
        el("text", title, x=middle, y=y + 26, class_="title"),
        el("text", about, x=middle, y=y + 46, class_="small"),
        el("text", command, x=middle, y=y + 68, class_="command"),
    )


def _band(x: int, width: int, words: str) -> Markup:
    return join(
        el("rect", x=x, y=10, width=width, height=HEIGHT - 20, rx=14, class_="band"),
        el("text", words, x=x + width / 2, y=33, class_="small"),
    )


def _arrow(way: str) -> Markup:
    return el("path", d=way)


if __name__ == "__main__":
    main(*sys.argv[1:])
