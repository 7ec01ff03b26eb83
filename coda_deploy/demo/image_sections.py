"""The report's sections that show images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coda_deploy.demo.codes import Palette
from coda_deploy.demo.results import DemoResults
from coda_runtime.format.sizes import shape_text
from coda_runtime.io.counts import count
from coda_runtime.report.charts import Axis, Line, line_chart
from coda_runtime.report.document import keys
from coda_runtime.report.images import picture
from coda_runtime.report.markup import Markup, el, join, table
from coda_runtime.report.words import decibel

# Of the shipped photographs, one of a person and one of a landscape.
FEATURED = ("astronaut", "mountains")


def side_by_side(found: DemoResults) -> Markup:
    """Show every photograph beside its two reconstructions."""
    cards = [
        el(
            "article",
            el("h3", name.capitalize()),
            el(
                "div",
                figure(found.originals[i], f"{name}, original", "Original", f"{shape_text(size, ' × ')} pixels"),
                figure(found.reconstructions[i], f"{name}, from tokens", "From tokens", decibel(discrete)),
                figure(found.continuous[i], f"{name}, continuous VAE", "Continuous VAE", decibel(continuous)),
                class_="three",
            ),
            class_="card",
        )
        for size in [found.manifest.spec.image_size]
        for i, (name, discrete, continuous) in enumerate(
            zip(found.names, found.psnr(found.reconstructions), found.psnr(found.continuous), strict=True)
        )
    ]
    return el(
        "section",
        el("h2", "There and back"),
        el(
            "p",
            f"Each photograph, what its {count(found.manifest.spec.num_tokens, 'token')} give back, and what the "
            "same VAE gives without the quantizer: what tokens can at best come close to. PSNR is against the "
            "original; higher is closer.",
        ),
        el("div", cards, class_="pairs"),
    )


def growing(found: DemoResults) -> Markup:
    """Show what the first scale, the first two, ..., all decode to: images of two photographs, a curve for each."""
    lengths, sides = found.manifest.spec.prefix_lengths, found.manifest.spec.scales
    per_prefix = [found.psnr(images) for images in found.prefixes]
    cards = []
    for index in featured(found.names):
        name = found.names[index]
        stages = [
            figure(
                images[index],
                f"{name} from the first {count(tokens, 'token')}",
                count(tokens, "token"),
                f"{shape_text(side, ' × ')} added, {decibel(psnr[index])}",
            )
            for images, tokens, side, psnr in zip(found.prefixes, lengths, sides, per_prefix, strict=True)
        ]
        original = figure(found.originals[index], f"{name}, original", "Original", "")
        continuous = figure(
            found.continuous[index],
            f"{name}, continuous VAE",
            "Continuous VAE",
            decibel(found.psnr(found.continuous)[index]),
        )
        cards.append(
            el(
                "article",
                el("h3", name.capitalize()),
                el("div", stages, continuous, original, class_="stages"),
                class_="card",
            )
        )
    return el(
        "section",
        el("h2", "Growing scale by scale"),
        el(
            "p",
            f"Tokens come coarse to fine, in {count(len(sides), 'scale')}. The first scales decode without the later "
            "ones, so that an image can be shown, or generated, one scale at a time.",
        ),
        el("div", cards, _gain(found, lengths, per_prefix), class_="stack"),
    )


def _gain(found: DemoResults, lengths: Sequence[int], per_prefix: Sequence[Sequence[float]]) -> Markup:
    curves = np.array(per_prefix).T
    thin = [
        Line(name, list(zip(lengths, curve, strict=True)), "thin")
        for name, curve in zip(found.names, curves, strict=True)
    ]
    mean = Line("mean", list(zip(lengths, curves.mean(0), strict=True)))
    chart = line_chart(
        [*thin, mean],
        Axis("tokens decoded (logarithmic)", ticks=_spread(lengths), log=True),
        Axis("PSNR, dB"),
        f"Line chart: mean PSNR from {decibel(curves.mean(0)[0])} at {count(lengths[0], 'token')} to "
        f"{decibel(curves.mean(0)[-1])} at {count(lengths[-1], 'token')}",
    )
    bits = found.bits_per_token
    rows = [
        [shape_text(side, " × "), f"{tokens:,}", f"{math.ceil(tokens * bits / 8):,}", decibel(psnr)]
        for side, tokens, psnr in zip(found.manifest.spec.scales, lengths, curves.mean(0), strict=True)
    ]
    return el(
        "div",
        el(
            "div",
            el("h3", "PSNR as tokens come in"),
            chart,
            keys(("mean", ""), ("each photograph", "thin")),
            class_="card",
        ),
        el(
            "div",
            el("h3", "What each scale adds"),
            table(["up to", "tokens", "bytes", "mean PSNR"], rows),
            class_="card",
        ),
        class_="pairs",
    )


def _spread(lengths: Sequence[int]) -> list[int]:
    """Return the lengths whose labels do not touch on a logarithmic axis, the last among them; descending."""
    kept: list[int] = []
    for length in reversed(lengths):
        if not kept or 1.7 * length <= kept[-1]:
            kept.append(length)
    return kept


def code_maps(found: DemoResults) -> Markup:
    """Show the ids of each scale as coloured squares."""
    palette, sides = Palette(found.codebook), found.manifest.spec.scales
    summed = palette.colours(found.latent.transpose(0, 2, 3, 1))
    cards = []
    for index in featured(found.names):
        name = found.names[index]
        maps = [palette.codes[scale[index]] for scale in found.scales]
        coarse = [
            figure(
                pixels,
                f"{name}, codes of the {shape_text(side, ' by ')} scale",
                shape_text(side, " × "),
                "",
                kind="codes",
            )
            for pixels, side in zip(maps[:-1], sides[:-1], strict=True)
        ]
        side = sides[-1]
        large = el(
            "div",
            figure(found.originals[index], f"{name}, original", "Original", ""),
            figure(
                summed[index],
                f"{name}, sum of the codes of all scales",
                "All scales, summed",
                "what the decoder sees",
                kind="codes",
            ),
            figure(
                maps[-1],
                f"{name}, codes of the {shape_text(side, ' by ')} scale",
                shape_text(side, " × "),
                "the finest scale alone",
                kind="codes",
            ),
            class_="three",
        )
        cards.append(
            el("article", el("h3", name.capitalize()), large, el("div", coarse, class_="coarse"), class_="card")
        )
    return el(
        "section",
        el("h2", "A map of the codes"),
        el(
            "p",
            "Every square is one token, coloured by the value of its code: the three main directions of the codebook "
            "are lightness, green to red and blue to yellow, so codes that look alike mean alike. The colours are not "
            "the image's own. A scale codes only what the coarser ones left, so the subject shows best "
            "in their sum.",
        ),
        el("div", cards, class_="pairs"),
    )


def featured(names: Sequence[str]) -> list[int]:
    """Return the numbers of the photographs that are shown where not all of them are."""
    found = [names.index(name) for name in FEATURED if name in names]
    return found or list(range(min(2, len(names))))


def figure(pixels: np.ndarray, alt: str, title: str, text: str, *, kind: str = "photo") -> Markup:
    """Return one picture over its title and a few words; ``alt`` describes it."""
    return el("figure", picture(pixels, alt, kind=kind), el("figcaption", join(el("b", title), text)))
