"""The figures as rows of text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable

from coda_deploy.evaluate.result import Evaluation
from coda_runtime.page.words import count, share

# (key, name, what is better, how it is written)
QUALITY: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("psnr", "PSNR", "higher", "{:.2f} dB".format),
    ("ssim", "SSIM", "higher", "{:.4f}".format),
    ("lpips", "LPIPS", "lower", "{:.4f}".format),
    ("rfid", "rFID", "lower", "{:.3f}".format),
)


def quality_columns(found: Evaluation) -> list[str]:
    """The headings of :func:`quality_rows`."""
    return ["", "tokens", *(["continuous VAE"] if found.continuous else []), "better is"]


def quality_rows(found: Evaluation) -> list[list[str]]:
    """One row a figure: its name, of the tokens, of the continuous VAE where that was measured, what is better."""
    sides = [found.tokens, *([found.continuous] if found.continuous else [])]
    rows = []
    for key, name, better, write in QUALITY:
        values = [getattr(side, key) for side in sides]
        if key == "psnr":  # the mean of none: every image is identical
            rows.append([name, *("identical" if value is None else write(value) for value in values), better])
        elif any(value is not None for value in values):
            rows.append([name, *("not computed" if value is None else write(value) for value in values), better])
    return rows


def scale_columns(found: Evaluation) -> list[str]:
    """The headings of :func:`scale_rows`."""
    agreement = ["equal tokens"] if found.against else []
    return ["scale", "tokens", "codes seen", "perplexity", *agreement]


def scale_rows(found: Evaluation) -> list[list[str]]:
    """One row a scale and one for all: tokens, share of the codebook seen, perplexity, share equal to the other's."""
    rows = [
        [f"{of.side} × {of.side}", f"{of.tokens:,}", share(of.utilization), f"{of.perplexity:,.1f}"]
        + ([share(of.agreement)] if found.against else [])
        for of in found.scales
    ]
    used = [share(found.codebook_utilization), f"{found.codebook_perplexity:,.1f}"]
    return [*rows, ["all", f"{found.num_tokens:,}", *used, *([share(found.token_agreement)] if found.against else [])]]


def summary(found: Evaluation) -> str:
    """What was run on what, in one line."""
    about = found.about
    skipped = f", {found.num_skipped:,} skipped" if found.num_skipped else ""
    return (
        f"{about.kind} in {about.precision} on {about.backend} ({about.device}), "
        f"{count(found.num_images, 'image')} of {found.spec.image_size} × {found.spec.image_size}{skipped}"
    )


def notes(found: Evaluation) -> list[str]:
    """What a reader of the figures has to know."""
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
