"""The report's sections that show numbers: codebook use, parity, timings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coda_deploy.demo.codes import Usage
from coda_deploy.demo.results import DemoResults
from coda_deploy.demo.timing import Timing
from coda_runtime.codes.metrics import percent
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parity import Measured, NotMeasured, ParityRecord
from coda_runtime.format.precision import FP32
from coda_runtime.format.sizes import shape_text, size_text
from coda_runtime.io.counts import count
from coda_runtime.report.charts import Axis, Line, bar_chart, line_chart
from coda_runtime.report.document import keys
from coda_runtime.report.markup import Markup, el, table
from coda_runtime.report.words import decibel, milliseconds, share, times


def codebook_use(found: DemoResults) -> Markup:
    """Show how often each code occurs, and how many different ones each scale takes."""
    use = found.usage
    over = f"{count(len(found.names), 'photograph')} × {count(found.manifest.spec.num_tokens, 'token')}"
    return el(
        "section",
        el("h2", "Use of the codebook"),
        el(
            "p",
            f"Over {over} = {count(use.tokens, 'token')}, {use.distinct:,} of {count(use.vocab_size, 'code')} occur "
            f"({percent(use.utilization, 1)}), with a perplexity of {use.perplexity:,.0f}: as many equally frequent "
            f"codes would be as hard to guess. So few tokens cannot show every code: {use.tokens:,} even draws would "
            f"be expected to touch {percent(use.even_utilization, 1)}. The model card beside the tokenizer gives the "
            "utilisation over a larger held-out set.",
        ),
        el(
            "div",
            el(
                "div",
                el("h3", "Codes, most frequent first"),
                _rank_chart(use),
                el("p", "Where the curve lies flat at zero are the codes that did not occur.", class_="keys"),
                class_="card",
            ),
            el(
                "div",
                el("h3", "Different codes in each scale"),
                bar_chart(
                    [size_text(side) for side in found.manifest.spec.scales],
                    [("two", use.tokens_per_scale), ("one", use.distinct_per_scale)],
                    "side of the scale",
                    Axis("how many"),
                    "Bar chart, tokens and different codes in each scale: "
                    + ", ".join(
                        f"{shape_text(side, ' by ')} has {distinct} in {tokens}"
                        for side, distinct, tokens in zip(
                            found.manifest.spec.scales, use.distinct_per_scale, use.tokens_per_scale, strict=True
                        )
                    ),
                ),
                keys(("tokens", "two"), ("different codes among them", "one")),
                class_="card",
            ),
            class_="pairs",
        ),
    )


def _rank_chart(use: Usage) -> Markup:
    counts = np.sort(use.counts[use.counts > 0])[::-1]
    # Only where the count changes: two points a step instead of thousands.
    ends = np.flatnonzero(np.diff(counts, append=0)) + 1
    points: list[tuple[float, float]] = []
    start = 0
    for end in ends.tolist():
        points += [(start, int(counts[end - 1])), (end, int(counts[end - 1]))]
        start = end
    points += [(start, 0), (use.vocab_size, 0)]
    top = int(counts[0]) if counts.size else 0
    return line_chart(
        [Line("codes by frequency", points, "area")],
        Axis("codes, by frequency", zero=True),
        Axis("times seen", zero=True),
        f"Falling curve of how often each of {count(use.distinct, 'code')} occurs, from {count(top, 'time')} down to "
        "once",
    )


def parity(found: DemoResults) -> Markup:
    """Show the export's own measurements of fp32, as the manifest holds them."""
    measured = _fp32(found)
    backends = sorted({where for _, where, _ in measured})
    reasons = [
        f"{artifact.file} on {where}: {record.reason}"
        for artifact, where, record in measured
        if isinstance(record, NotMeasured)
    ]
    return el(
        "section",
        el("h2", "The same numbers as PyTorch"),
        el(
            "p",
            f"Measured by the export on these photographs and kept in the bundle's manifest: each part on its own "
            f"({', '.join(backends)}) against the unfolded float32 tokenizer. Step by step, a near tie that fell the "
            "other way counts once; free-running, it changes every later scale too. An export below its threshold "
            "fails.",
        ),
        [el("p", f"Not run: {reason}") for reason in reasons],
        el(
            "div",
            el("div", el("h3", "Equal tokens"), _token_table(found), class_="card"),
            el(
                "div",
                el("div", el("h3", "Images decoded from the same tokens"), _pixel_table(found), class_="card"),
                el("div", el("h3", "The bundle they were measured in"), _file_table(found), class_="card"),
                class_="stack",
            ),
            class_="pairs",
        ),
    )


def _fp32(found: DemoResults) -> list[tuple[Artifact, str, ParityRecord]]:
    """Return what was measured of the graphs that promise PyTorch's numbers."""
    return [row for row in found.parity() if row[0].precision == FP32]


def _measured(found: DemoResults) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (file, numbers) of what ran."""
    return [(artifact.file, record.numbers) for artifact, _, record in _fp32(found) if isinstance(record, Measured)]


def _token_table(found: DemoResults) -> Markup:
    measured = [(file, numbers) for file, numbers in _measured(found) if "step_agreement_per_scale" in numbers]
    rows = [
        [shape_text(side, " × "), *(share(numbers["step_agreement_per_scale"][index]) for _, numbers in measured)]
        for index, side in enumerate(found.manifest.spec.scales)
    ]
    rows.append(["all, step by step", *(share(numbers["step_agreement"]) for _, numbers in measured)])
    rows.append(["all, free-running", *(share(numbers["agreement"]) for _, numbers in measured)])
    return table(["scale", *(file.removesuffix(".onnx") for file, _ in measured)], rows)


def _pixel_table(found: DemoResults) -> Markup:
    measured = [(file, numbers) for file, numbers in _measured(found) if "psnr" in numbers]
    rows = [
        [text, *(decibel(numbers[name]) for _, numbers in measured)]
        for text, name in (
            ("runtime to PyTorch", "psnr"),
            ("runtime to the original", "psnr_to_input"),
            ("PyTorch to the original", "reference_psnr_to_input"),
        )
    ]
    return table(["mean PSNR", *(file.removesuffix(".onnx") for file, _ in measured)], rows)


def _file_table(found: DemoResults) -> Markup:
    rows = [[a.file, a.format, f"{a.bytes / 1e6:.2f} MB"] for a in found.manifest.artifacts]
    return table(["file", "format", "size"], rows)


def timings(found: DemoResults) -> Markup:
    """Show the time of each part under the runtime and in PyTorch."""
    batches = sorted({timing.batch for timing in found.timings})
    cards = []
    for batch in batches:
        of = [timing for timing in found.timings if timing.batch == batch]
        cards.append(
            el(
                "article",
                el("h3", f"{count(batch, 'image')} at a time"),
                _timing_chart(of),
                _timing_table(of),
                class_="card",
            )
        )
    rounds = sorted({timing.rounds for timing in found.timings})
    spread = " to ".join(str(n) for n in dict.fromkeys((rounds[0], rounds[-1]))) if rounds else "no"
    return el(
        "section",
        el("h2", "How long each part takes"),
        el(
            "p",
            "The runtime on onnxruntime against the unfolded tokenizer in PyTorch, float32, in this very run: "
            f"medians of {spread} rounds in which both take turns. PyTorch runs in inference mode, on one thread or on "
            "all, whichever is faster; its quantizer is ResidualQuantizer.encode, without the softmax and the one-hot "
            "matrix of the textbook form. "
            "Other work on the machine changes all of these.",
        ),
        el("div", cards, class_="pairs"),
        el("p", f"Threads: {found.machine['threads']}.") if "threads" in found.machine else "",
    )


def _timing_chart(timings: Sequence[Timing]) -> Markup:
    words = ", ".join(
        f"{t.part} {milliseconds(t.torch_ms)} in PyTorch and {milliseconds(t.runtime_ms)} in the runtime"
        for t in timings
    )
    return el(
        "div",
        bar_chart(
            [t.part for t in timings],
            [("two", [t.torch_ms for t in timings]), ("one", [t.runtime_ms for t in timings])],
            "",
            Axis("milliseconds"),
            f"Bar chart: {words}",
        ),
        keys(("PyTorch", "two"), ("coda-runtime", "one")),
    )


def _timing_table(timings: Sequence[Timing]) -> Markup:
    rows = [[t.part, milliseconds(t.torch_ms), milliseconds(t.runtime_ms), times(t.ratio)] for t in timings]
    return table(["part", "PyTorch", "runtime", "faster"], rows)
