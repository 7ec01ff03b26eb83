"""The page of an evaluation: one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coda_deploy.evaluate.extremes import Shown
from coda_deploy.evaluate.metrics import METRICS
from coda_deploy.evaluate.result import Evaluation
from coda_deploy.evaluate.rows import (
    AGREEMENT_NOTE,
    notes,
    quality_columns,
    quality_rows,
    scale_columns,
    scale_rows,
    summary,
)
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.format.sizes import shape_text, size_text
from coda_runtime.format.spec import Spec
from coda_runtime.io.counts import count
from coda_runtime.report import made_with
from coda_runtime.report.charts import Axis, Line, bar_chart, line_chart, nice_ticks
from coda_runtime.report.document import document, keys, tile
from coda_runtime.report.images import picture
from coda_runtime.report.markup import Markup, el, join, table
from coda_runtime.report.words import decibel, share

PACKAGES = (
    "coda-runtime", "coda-deploy", "torch", "onnxruntime", "openvino", "numpy", "Pillow", "lpips", "torch-fidelity",
)  # fmt: skip
"""What the footer gives the versions of."""
AMPLIFIED = 4
MAX_BINS = 24
_LABELS = {metric.key: metric.name for metric in METRICS} | {"token_agreement": "equal tokens, free-running"}


def render(found: Evaluation) -> str:
    """Render the page."""
    return document(
        f"coda eval: {found.about.path}",
        headline(found),
        metrics_section(found),
        codebook(found),
        extremes("Furthest from their originals", found.worst, "lowest", found.data),
        extremes("Closest to their originals", found.best, "highest", found.data),
        footer=footer(found),
    )


def headline(found: Evaluation) -> Markup:
    """Say what was measured, in a sentence and a few numbers."""
    spec, tokens = found.spec, found.tokens
    name = Path(found.about.path).resolve().name or found.about.path
    continuous = found.continuous.psnr if found.continuous else None
    tiles = [
        tile("PSNR", decibel(tokens.psnr), f"{decibel(continuous)} without quantizer" if continuous else "mean"),
        *([tile("SSIM", f"{tokens.ssim:.3f}", "1 is identical")] if tokens.ssim is not None else []),
        *([tile("LPIPS", f"{tokens.lpips:.3f}", "0 is identical")] if tokens.lpips is not None else []),
        *(
            [tile("rFID", f"{tokens.rfid:.2f}", f"over {count(found.num_images, 'image')}")]
            if tokens.rfid is not None
            else []
        ),
        tile("Codes seen", share(found.codebook_utilization), f"perplexity {found.codebook_perplexity:,.0f}"),
        tile(
            "Bits per pixel", f"{found.bits_per_pixel:.3f}", f"{count(spec.num_tokens, 'token')} of {spec.vocab_size:,}"
        ),
    ]
    lead = f"A {summary(found)}, from {found.data or 'memory'}."
    if found.against is not None:
        lead += f" {share(found.token_agreement)} of its tokens are those of {found.against.path}."
    return el(
        "header",
        el("p", "coda eval", class_="eyebrow"),
        el("h1", f"{name}: {decibel(tokens.psnr)} over {count(found.num_images, 'image')}"),
        el("p", lead, class_="lead name"),
        el("dl", tiles, class_="tiles"),
    )


def metrics_section(found: Evaluation) -> Markup:
    """Show the means in a table, and how PSNR is spread over the images."""
    return el(
        "section",
        el("h2", "How close the images come"),
        el(
            "p",
            "Means over the images, of what the tokens give back"
            + (", of what the tokens of the other give back, the difference of the two" if found.other else "")
            + (
                " and of what the same VAE gives without quantizer and LoRA: the continuous tokenizer it was adapted "
                "from."
                if found.continuous
                else "."
            ),
        ),
        [el("p", f"Note: {note}.") for note in notes(found)],
        el(
            "div",
            el(
                "div",
                el("h3", "Figures"),
                table(quality_columns(found), quality_rows(found)),
                _missing(found),
                class_="card",
            ),
            el("div", el("h3", "PSNR of the images"), *_histogram(found), class_="card"),
            class_="pairs",
        ),
    )


def _missing(found: Evaluation) -> Markup:
    """Say why figures are missing, one line per reason; of the VAE's only where the tokens' are there."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in found.not_computed.items():
        label = "continuous VAE" if name.startswith("vae_") else _LABELS[name]
        by_reason.setdefault(reason, []).append(label)
    lines = []
    for reason, labels in by_reason.items():
        own = [label for label in labels if label != "continuous VAE"] or labels[:1]
        lines.append(f"{', '.join(own)}: {reason}")
    return el("p", f"Not computed. {'; '.join(lines)}.", class_="keys below") if lines else Markup("")


def _histogram(found: Evaluation) -> tuple[Markup, ...]:
    sets = [("tokens", "area", found.scores["psnr"])]
    if "vae_psnr" in found.scores:
        sets.append(("continuous VAE", "second", found.scores["vae_psnr"]))
    finite = [(name, style, values[np.isfinite(values)]) for name, style, values in sets]
    every = np.concatenate([values for _, _, values in finite])
    if not every.size:
        return (el("p", "Every image is identical to its original.", class_="keys"),)
    # Few images need wide bins: about as many as Rice's rule has.
    bins = min(MAX_BINS, math.ceil(2 * found.num_images ** (1 / 3)))
    edges = nice_ticks(float(every.min()), float(every.max()), bins)
    steps = [Line(name, _steps(values, edges), style) for name, style, values in finite]
    largest = max(number for line in steps for _, number in line.points)
    chart = line_chart(
        steps,
        Axis("PSNR, dB", ticks=nice_ticks(edges[0], edges[-1])),
        Axis("images", ticks=[tick for tick in nice_ticks(0, largest) if tick == int(tick)], zero=True),
        "Histogram of PSNR: "
        + "; ".join(f"{name} from {v.min():.1f} to {v.max():.1f} dB" for name, _, v in finite if v.size),
    )
    return chart, keys(*((name, "two" if style == "second" else "") for name, style, _ in finite))


def _steps(values: NDArray[np.float64], edges: Sequence[float]) -> list[tuple[float, float]]:
    counts, _ = np.histogram(values, edges)
    return [(edge, float(number)) for index, number in enumerate(counts) for edge in (edges[index], edges[index + 1])]


def codebook(found: Evaluation) -> Markup:
    """Show which share of the codes each scale uses, and how evenly."""
    seen = [100 * scale.utilization for scale in found.scales]
    return el(
        "section",
        el("h2", "Use of the codebook"),
        el(
            "p",
            f"Of {count(found.spec.vocab_size, 'code')}, over {count(found.num_tokens, 'token')}. A scale cannot show "
            "more codes than it has tokens, so the share seen grows with the number of images. Perplexity is the "
            "number of equally frequent codes that would be as hard to guess.",
        ),
        el(
            "div",
            el(
                "div",
                el("h3", "Scale by scale"),
                table(scale_columns(found), scale_rows(found)),
                el("p", f"{AGREEMENT_NOTE}.", class_="keys below") if found.against else "",
                class_="card",
            ),
            el(
                "div",
                el("h3", "Codes seen in each scale"),
                bar_chart(
                    [size_text(scale.side) for scale in found.scales],
                    [("one", seen)],
                    "side of the scale",
                    Axis("% of the codebook"),
                    "Bar chart of the codes seen: "
                    + ", ".join(f"{shape_text(of.side, ' by ')} {share(of.utilization)}" for of in found.scales),
                ),
                class_="card",
            ),
            class_="pairs",
        ),
    )


def extremes(title: str, shown: Sequence[Shown], end: str, data: str) -> Markup:
    """Show images, their reconstructions, and where the two differ; names are relative to ``data``."""
    if not shown:
        return Markup("")
    return el(
        "section",
        el("h2", title),
        el(
            "p",
            f"The {count(len(shown), 'image')} of {end} PSNR. The error is the absolute difference between original "
            f"and reconstruction from tokens in each colour, amplified {AMPLIFIED} times.",
        ),
        el("div", [_card(image, data) for image in shown], class_="stack"),
    )


def _card(shown: Shown, data: str) -> Markup:
    name = shown.name.removeprefix(f"{data.rstrip('/')}/")
    difference = np.abs(shown.original.astype(np.int16) - shown.tokens)
    error = np.minimum(AMPLIFIED * difference, 255).astype(np.uint8)
    parts = [(shown.original, "Original", ""), (shown.tokens, "From tokens", decibel(shown.psnr))]
    if shown.continuous is not None:
        alone = float(psnr_per_image(shown.original[None], shown.continuous[None])[0])
        parts.append((shown.continuous, "Continuous VAE", decibel(alone)))
    parts.append((error, "Error of the tokens", f"× {AMPLIFIED}"))
    figures = [
        el("figure", picture(pixels, f"{name}, {words.lower()}"), el("figcaption", join(el("b", words), text)))
        for pixels, words, text in parts
    ]
    wide = "four" if len(parts) == 4 else "three"
    return el("article", el("h3", name, class_="name"), el("div", figures, class_=wide), class_="card")


def _fitted(spec: Spec) -> str:
    if spec.height == spec.width:
        return f"shorter side to {spec.height} pixels"
    return f"scaled to cover {shape_text(spec.image_size, ' × ')} pixels"


def footer(found: Evaluation) -> Markup:
    """Say what ran where, and what this was made with."""
    about, spec = found.about, found.spec
    facts = {
        "Evaluated": f"{about.kind} “{spec.variant}”, {about.path}",
        "Ran as": f"{about.precision}, {about.backend}, {about.device}",
        "Images": f"{found.data or 'in memory'}: {_fitted(spec)} (Lanczos), centre cropped",
    }
    if found.against is not None:
        facts["Compared with"] = f"{found.against.path}: {found.against.kind} on {found.against.backend}"
    if found.network_device is not None:
        facts["Networks that compare on"] = found.network_device
    return made_with.footer({**facts, **made_with.facts_of_now(["coda", *sys.argv[1:]], PACKAGES)})
