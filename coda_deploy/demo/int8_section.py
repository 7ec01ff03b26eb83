"""The report's section on int8: its images beside fp32's, what they lose, and how fast it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coda_deploy.demo.image_sections import featured, figure
from coda_deploy.demo.results import LOWER, DemoResults, Int8, NoInt8
from coda_deploy.demo.timing import PrecisionTiming
from coda_runtime.format.parts import DECODER, ENCODER
from coda_runtime.format.precision import FP32
from coda_runtime.io.counts import count
from coda_runtime.report.document import tile
from coda_runtime.report.markup import Markup, el, table
from coda_runtime.report.words import decibel, milliseconds, share, times


def in_int8(found: DemoResults) -> Markup:
    """Show what int8 makes of a few photographs, or say why there is none."""
    return el(
        "section",
        el("h2", "In int8"),
        _fell_short(found.int8) if isinstance(found.int8, NoInt8) else _shown(found, found.int8),
    )


def _fell_short(missing: NoInt8) -> Markup:
    return el("p", f"This tokenizer's bundle holds no int8, which fell short in the export: {missing.reason}")


def _shown(found: DemoResults, int8: Int8) -> list[Markup]:
    return [
        el(
            "p",
            "The bundle holds encoder and decoder in int8 beside fp32, which stays its default. Losses and agreement "
            "are the export's own, against the tokenizer in PyTorch; its scales were taken from other photographs "
            "than these. Take it with ",
            el("code", f'coda_runtime.load("bundle", precision="{LOWER}")'),
            ": its tokens are not fp32's, so that both sides of an application should take the same.",
        ),
        _tiles(found, int8),
        el("div", _photographs(found, int8), class_="pairs"),
        el(
            "div",
            el("div", el("h3", "Time, measured in turn"), _time_table(int8.timings), class_="card"),
            el("div", el("h3", "Files"), _size_table(found), class_="card"),
            class_="pairs",
        ),
    ]


def _tiles(found: DemoResults, int8: Int8) -> Markup:
    encoder, decoder = found.measured(ENCODER.name, LOWER), found.measured(DECODER.name, LOWER)
    drop, worst = (None, None) if decoder is None else (decoder.psnr_drop, decoder.psnr_drop_max)
    free = None if encoder is None else encoder.numbers.get("agreement")
    alone = [timing for timing in int8.timings if timing.batch == min(of.batch for of in int8.timings)]
    return el(
        "dl",
        tile("PSNR lost", _lost(drop), f"in the mean; worst image {_lost(worst)}"),
        tile(
            "Decoder alone",
            "not run" if decoder is None else decibel(decoder.psnr),
            "from the images of PyTorch, same tokens",
        ),
        tile(
            "Equal tokens",
            share(None if encoder is None else encoder.step_agreement),
            f"step by step; free-running {share(free)}",
        ),
        [
            tile(timing.operation.capitalize(), times(timing.ratio), f"as fast as fp32, {count(timing.batch, 'image')}")
            for timing in alone
        ],
        class_="tiles",
    )


def _lost(value: float | None) -> str:
    return "not run" if value is None else f"{value:.2f} dB"


def _photographs(found: DemoResults, int8: Int8) -> list[Markup]:
    fp32, lower = found.psnr(found.reconstructions), found.psnr(int8.reconstructions)
    with np.errstate(invalid="ignore"):  # inf less inf: identical in both
        worst = int(np.argmax(np.nan_to_num(np.subtract(fp32, lower))))
    return [
        el(
            "article",
            el("h3", found.names[i].capitalize() + (", which loses most" if i == worst else "")),
            el(
                "div",
                figure(found.originals[i], f"{found.names[i]}, original", "Original", ""),
                figure(found.reconstructions[i], f"{found.names[i]}, in fp32", FP32, decibel(fp32[i])),
                figure(int8.reconstructions[i], f"{found.names[i]}, in int8", LOWER, _beside(lower[i], fp32[i])),
                class_="three",
            ),
            class_="card",
        )
        for i in dict.fromkeys([*featured(found.names), worst])
    ]


def _beside(psnr: float, fp32: float) -> str:
    """Return a PSNR and by how much it is other than fp32's."""
    if math.isinf(psnr) or math.isinf(fp32):
        return decibel(psnr)
    return f"{decibel(psnr)}, {abs(psnr - fp32):.2f} dB {'less' if psnr <= fp32 else 'more'}"


def _time_table(timings: Sequence[PrecisionTiming]) -> Markup:
    rows = [
        [
            f"{timing.operation}, {count(timing.batch, 'image')}",
            milliseconds(timing.fp32_ms),
            milliseconds(timing.int8_ms),
            times(timing.ratio),
        ]
        for timing in timings
    ]
    return table(["medians", FP32, LOWER, "faster"], rows)


def _size_table(found: DemoResults) -> Markup:
    rows = []
    for part in (ENCODER.name, DECODER.name):
        fp32, int8 = (
            sum(artifact.bytes for artifact in found.manifest.find(part, precision=precision))
            for precision in (FP32, LOWER)
        )
        rows.append([f"{part} file", f"{fp32 / 1e6:.2f} MB", f"{int8 / 1e6:.2f} MB", times(fp32 / int8)])
    return table(["", FP32, LOWER, "smaller"], rows)
