"""The report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from coda_deploy.demo import image_sections, int8_section, metric_sections
from coda_deploy.demo.results import DemoResults
from coda_runtime.format.parts import ENCODER
from coda_runtime.format.precision import FP32
from coda_runtime.format.sizes import count_of, shape_text
from coda_runtime.io.counts import count
from coda_runtime.report import made_with
from coda_runtime.report.document import document, tile
from coda_runtime.report.markup import Markup, el, join
from coda_runtime.report.words import decibel, share

PACKAGES = ("coda-runtime", "coda-deploy", "torch", "diffusers", "onnx", "onnxruntime", "openvino", "numpy")
"""What the footer gives the versions of."""


def render(found: DemoResults, *, out: Path, coda: str = "coda") -> str:
    """Render the page. ``out`` is the demo's folder and ``coda`` the command, as the reader would type them."""
    return document(
        f"coda demo: {count(len(found.names), 'photograph')} as tokens",
        headline(found),
        image_sections.side_by_side(found),
        image_sections.growing(found),
        image_sections.code_maps(found),
        metric_sections.codebook_use(found),
        metric_sections.parity(found),
        metric_sections.timings(found),
        int8_section.in_int8(found),
        next_steps(out, coda),
        footer=footer(found),
    )


def headline(found: DemoResults) -> Markup:
    """Say what happened, in a sentence and six numbers."""
    spec, photos = found.manifest.spec, count(len(found.names), "photograph")
    raw = count_of(spec.image_shape) * 3
    return el(
        "header",
        el("p", "coda demo", class_="eyebrow"),
        el("h1", f"{photos} became {count(spec.num_tokens, 'token')} each, and came back"),
        el(
            "p",
            "A tokenizer trained in PyTorch was exported to ONNX and run by coda-runtime, which needs no PyTorch. "
            f"Every image of {shape_text(spec.image_size, ' × ')} pixels ({count(raw, 'byte')}) became "
            f"{count(spec.num_tokens, 'token')} of {count(found.bits_per_token, 'bit')}: "
            f"{count(found.bytes_per_image, 'byte')}, {raw / found.bytes_per_image:.0f} times fewer.",
            class_="lead",
        ),
        el(
            "dl",
            tile("Tokens per image", f"{spec.num_tokens:,}", f"in {count(len(spec.scales), 'scale')}, coarse to fine"),
            tile("Codebook", f"{spec.vocab_size:,}", f"codes of {count(spec.latent_channels, 'number')}"),
            tile("Bits per pixel", f"{found.bits_per_pixel:.2f}", "24 before"),
            tile("Mean PSNR", _mean(found, found.reconstructions), "tokens against originals"),
            tile("Without quantizer", _mean(found, found.continuous), "PSNR of the continuous VAE"),
            _parity_tile(found),
            class_="tiles",
        ),
    )


def _mean(found: DemoResults, images: np.ndarray) -> str:
    return decibel(float(np.mean(found.psnr(images))))


def _parity_tile(found: DemoResults) -> Markup:
    encoder = found.measured(ENCODER.name, FP32)
    return tile("Parity", share(None if encoder is None else encoder.step_agreement), "of the tokens as in PyTorch")


def next_steps(out: Path, coda: str) -> Markup:
    """List commands to type next."""
    bundle, tokenizer = out / "bundle", out / "tokenizer"
    steps = [
        ("Your own images to tokens, and back", [
            f"{coda} encode {bundle} photo.jpg --out tokens.npz",
            f"{coda} decode {bundle} tokens.npz --out pictures",
        ]),
        ("Both in one, with the PSNR", [f"{coda} reconstruct {bundle} photo.jpg --out pictures"]),
        ("What the bundle holds, and whether it is whole and true to its tokenizer", [
            f"{coda} inspect {bundle}",
            f"{coda} verify {bundle} --tokenizer {tokenizer}",
        ]),
        ("From Python, where only coda-runtime is installed", [
            "import coda_runtime",
            "",
            f'with coda_runtime.load("{bundle.as_posix()}") as tok:',
            '    ids = tok.encode(["photo.jpg"])  # int32 [1, L]',
            "    images = tok.decode(ids)         # uint8 [1, H, W, 3]",
        ]),
        ("A published CODA checkpoint, the same way", [
            f"{coda} import-official --variant flux_v65536 --out tokenizer",
            f"{coda} export tokenizer --out bundle",
        ]),
    ]  # fmt: skip
    return el(
        "section",
        el("h2", "What to do next"),
        el("p", "photo.jpg stands for any image of yours; folders of images work too."),
        [join(el("h3", title), el("pre", el("code", "\n".join(lines)))) for title, lines in steps],
    )


def footer(found: DemoResults) -> Markup:
    """Say what this was made with, which tokenizer it was, and whose photographs."""
    spec, source = found.manifest.spec, found.manifest.provenance.get("source", {})
    digest = str(source.get("sha256", ""))[:12]
    facts = made_with.facts_of_now(["coda", *sys.argv[1:]], PACKAGES)
    return made_with.footer(
        {**facts, "Tokenizer": f"{spec.variant}, weights {digest}"},
        el(
            "p",
            "Photographs: NASA, SpaceX, Stéfan van der Walt, Rachel Michetti, Clemens Engelhardt (public domain and "
            "CC0), Aitzol Berasategi (dogs, mountains, sunset: CC BY 4.0); details in "
            "coda_deploy/photographs/LICENSES.md.",
        ),
    )
