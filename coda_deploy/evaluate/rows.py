"""The figures as rows of text, for the terminal and the page."""

from __future__ import annotations

from coda_deploy.evaluate.metrics import METRICS, Metric
from coda_deploy.evaluate.result import Evaluation, Quality
from coda_deploy.evaluate.similarity import SCALES
from coda_runtime.format.sizes import shape_text
from coda_runtime.io.counts import count
from coda_runtime.report.words import share


def quality_columns(found: Evaluation) -> list[str]:
    """Return the headings of `quality_rows`."""
    against = ["compared with", "difference"] if found.other else []
    return ["", "tokens", *against, *(["continuous VAE"] if found.continuous else []), "better is"]


def quality_rows(found: Evaluation) -> list[list[str]]:
    """Return one row per figure: its name, of the tokens, what is better.

    Between them, where they were measured: of the other's tokens and the difference to them, of the continuous VAE.
    """
    rows = []
    for metric in METRICS:
        sides = [side for side in (found.tokens, found.other, found.continuous) if side is not None]
        if metric.key != "psnr" and all(getattr(side, metric.key) is None for side in sides):
            continue
        cells = [_cell(metric, found.tokens)]
        if found.other is not None:
            difference = getattr(found.difference, metric.key)
            cells += [_cell(metric, found.other), "" if difference is None else metric.write_difference(difference)]
        if found.continuous is not None:
            cells.append(_cell(metric, found.continuous))
        rows.append([_label(metric, found), *cells, metric.better])
    return rows


def _label(metric: Metric, found: Evaluation) -> str:
    few = metric.key == "ms_ssim" and found.ms_ssim_scales < SCALES
    return f"{metric.name}, {count(found.ms_ssim_scales, 'scale')}" if few else metric.name


def _cell(metric: Metric, side: Quality) -> str:
    value = getattr(side, metric.key)
    if value is not None:
        return metric.write(value)
    return "identical" if metric.key == "psnr" else "not computed"  # a mean of none: every image is identical


def scale_columns(found: Evaluation) -> list[str]:
    """Return the headings of `scale_rows`."""
    agreement = ["equal, free-running"] if found.against else []
    return ["scale", "tokens", "codes seen", "perplexity", *agreement]


def scale_rows(found: Evaluation) -> list[list[str]]:
    """Return a row per scale and one for all: tokens, codebook share seen, perplexity, share equal to the other's."""
    rows = [
        [shape_text(of.side, " × "), f"{of.tokens:,}", share(of.utilization), f"{of.perplexity:,.1f}"]
        + ([share(of.agreement)] if found.against else [])
        for of in found.scales
    ]
    used = [share(found.codebook_utilization), f"{found.codebook_perplexity:,.1f}"]
    return [*rows, ["all", f"{found.num_tokens:,}", *used, *([share(found.token_agreement)] if found.against else [])]]


AGREEMENT_NOTE = (
    "equal, free-running: the share of tokens that are the other's, where a near tie changes the scales after it too; "
    "step agreement, which counts it once, is what coda verify --tokenizer measures"
)
"""What a reader of equal tokens has to know."""


def summary(found: Evaluation) -> str:
    """Say what was run on what, in one line."""
    about = found.about
    skipped = f", {found.num_skipped:,} skipped" if found.num_skipped else ""
    return (
        f"{about.kind} in {about.precision} on {about.backend} ({about.device}), "
        f"{count(found.num_images, 'image')} of {shape_text(found.spec.image_size, ' × ')}{skipped}"
    )


def notes(found: Evaluation) -> list[str]:
    """Return what a reader of the figures has to know."""
    lines = list(found.warnings)
    if found.num_skipped:
        name, reason = found.skipped[0]
        first = reason if name in reason else f"{name}: {reason}"
        lines.append(f"{count(found.num_skipped, 'image')} skipped, the first: {first}")
    if found.num_identical:
        lines.append(
            f"{count(found.num_identical, 'reconstruction')} identical to the original, not in the mean of PSNR"
        )
    return lines
