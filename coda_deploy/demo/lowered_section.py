"""The report's section on the lower precision."""

from __future__ import annotations

from coda_deploy.demo.image_sections import featured, figure
from coda_deploy.demo.lowered import Lowered
from coda_deploy.demo.results import DemoResults
from coda_runtime.report.markup import Markup, el, join, table
from coda_runtime.report.words import decibel, milliseconds, times


def beside_float32(found: DemoResults) -> Markup:
    """Show two photographs in both precisions, what each loses, and the times; nothing where there is none."""
    lowered = found.lowered
    if lowered is None:
        return join()
    exact, low = found.psnr(found.reconstructions), found.psnr(lowered.reconstructions)
    cards = [
        el(
            "article",
            el("h3", found.names[i].capitalize()),
            el(
                "div",
                figure(found.originals[i], f"{found.names[i]}, original", "Original", ""),
                figure(found.reconstructions[i], f"{found.names[i]}, float32", "float32", decibel(exact[i])),
                figure(lowered.reconstructions[i], f"{found.names[i]}, lower", lowered.precision, decibel(low[i])),
                class_="three",
            ),
            class_="card",
        )
        for i in featured(found.names)
    ]
    losses = [
        [name, decibel(before), decibel(after), f"{before - after:.2f}"]
        for name, before, after in zip(found.names, exact, low, strict=True)
    ]
    mean = sum(exact) / len(exact), sum(low) / len(low)
    losses.append(["mean", *map(decibel, mean), f"{mean[0] - mean[1]:.2f}"])
    return el(
        "section",
        el("h2", f"The same in {lowered.precision}"),
        el(
            "p",
            f"The bundle holds encoder and decoder in {lowered.precision} too: convolutions in integers of 8 bits, "
            "with scales from sixteen other photographs. Its tokens are others, and give nearly the same picture.",
        ),
        el("div", cards, class_="pairs"),
        el(
            "div",
            el("article", table(["photograph", "float32", lowered.precision, "lost, dB"], losses), class_="card"),
            el("article", _speeds(lowered), class_="card"),
            class_="pairs",
        ),
    )


def _speeds(lowered: Lowered) -> Markup:
    rows = [
        [speed.operation, milliseconds(speed.exact_ms), milliseconds(speed.lowered_ms), times(speed.ratio)]
        for speed in lowered.speeds
    ]
    return table(["one image", "float32", lowered.precision, "faster"], rows)
