"""int8 made in other ways, on the sample tokenizer: what each loses, and how fast its graphs are beside float32.

    python -m benchmarks.bench_int8 [--squares held_out.npy] [--only NAME ...]

On the eight photographs that parity is measured on, or on squares that no training saw (`held_out.npy` of
coda_deploy.sample.recipe.photographs), whose mean says more than that of eight. Speeds are of one image and one thread,
in turn; on a busy machine they mean little. What needs a library that is not installed says so.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks import int8_ways
from benchmarks.int8_ways import Array, Run, runner
from coda_deploy import CodaTokenizer
from coda_deploy.export import calibration_images, parity_images
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_deploy.sample import tokenizer_path
from coda_export import DEFAULT_OPSET
from coda_export.graphs import decoder_graph, encoder_graph
from coda_export.int8.quantize import Ways, quantized_graph
from coda_runtime.bench.timing import interleave
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.errors import one_line
from coda_runtime.parity import ParitySamples, psnr_loss

ROUNDS = 9
Make = Callable[[onnx.ModelProto, Array], onnx.ModelProto]


@dataclass(frozen=True)
class Variant:
    """A way to make int8, how many calibration images of which set it sees, and whether latents are fitted."""

    name: str
    make: Make = quantized_graph
    images: int = 16
    of: str = "photographs"
    fitted: bool = False


def _in(**options: object) -> Make:
    return lambda graph, inputs: quantized_graph(graph, inputs, Ways(**options))  # type: ignore[arg-type]


def _by(method: str, **options: float) -> Make:
    return lambda graph, inputs: int8_ways.calibrated(graph, inputs, method, **options)


VARIANTS = (
    Variant("as exported"),
    Variant("without bringing channels to one magnitude", _in(equalised=False)),
    Variant("first and last convolutions too", _in(float_ends=False)),
    Variant("one scale for a weight", _in(per_channel=False)),
    Variant("activations cut at 90 % of the largest", _in(share=0.9)),
    Variant("activations cut at 70 % of the largest", _in(share=0.7)),
    Variant("activations cut at 99.999 % of the values", _by("Percentile", percentile=99.999)),
    Variant("activations cut at 99.9 % of the values", _by("Percentile", percentile=99.9)),
    Variant("activations cut by entropy", _by("Entropy")),
    Variant("biases corrected", int8_ways.corrected),
    Variant("latents fitted by a matrix", fitted=True),
    Variant("NNCF", int8_ways.by_nncf),
    Variant("NVIDIA modelopt, convolutions", int8_ways.by_modelopt),
    Variant("eight photographs", images=8),
    Variant("four photographs", images=4),
    Variant("one photograph", images=1),
    Variant("sixteen images of noise", of="noise"),
)


def ratio(exact: Run, made: Run, row: Array) -> float:
    seconds = interleave([lambda: exact(row), lambda: made(row)], ROUNDS, min_rounds=3, budget_s=3)
    exact_s, made_s = (statistics.median(of) for of in seconds)
    return exact_s / made_s


def rows(squares: Array, variants: tuple[Variant, ...]) -> Iterator[str]:
    tokenizer = CodaTokenizer.from_pretrained(tokenizer_path())
    reference, folded = TorchReference(tokenizer), fold_tokenizer(tokenizer)
    size = tokenizer.config.image_size
    photographs = calibration_images(size).pixels
    noise = np.random.default_rng(0).integers(0, 256, photographs.shape, np.uint8)
    sets = {"photographs": photographs, "noise": noise}
    graphs = encoder_graph(folded, "fp32", DEFAULT_OPSET), decoder_graph(folded, "fp32", DEFAULT_OPSET)
    known = ParitySamples.take(reference, squares)
    exact = [runner(graph) for graph in graphs]
    yield "| way | latent off by | step agreement | decoder, worst image | lost, mean and worst | encoder, decoder |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for variant in variants:
        pixels = sets[variant.of][:: len(photographs) // variant.images]
        calibration = ParitySamples.take(reference, pixels)
        given: tuple[Array, Array] = calibration.images, calibration.ids
        try:
            encode, decode = (runner(variant.make(graph, inputs)) for graph, inputs in zip(graphs, given, strict=True))
        except (ImportError, RuntimeError) as error:  # a library that is not here, a graph that does not load
            yield f"| {variant.name} | {one_line(error)} | | | | |"
            continue
        if variant.fitted:
            encode = int8_ways.fitted(exact[0], encode, given[0])
        latent = encode(known.images)
        ids = reference.encode(latent)
        apart = psnr_per_image(decode(known.ids), known.decoded)
        lost = psnr_loss(known.images, decode(ids), known.decoded)
        cells = [
            variant.name,
            f"{100 * np.linalg.norm(latent - known.latent) / np.linalg.norm(known.latent):.1f} %",
            f"{100 * (ids == reference.step(known.latent, ids)).mean():.1f} %",
            f"{apart.mean():.1f} dB, {apart.min():.1f}",
            f"{lost['psnr_drop']:.2f} ± {lost['psnr_drop_error']:.2f} dB, {lost['psnr_drop_max']:.2f}",
            f"{ratio(exact[0], encode, known.images[:1]):.1f}, {ratio(exact[1], decode, known.ids[:1]):.1f} times",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squares", type=Path, help="uint8 [N, H, W, 3] of the sample's size; the photographs else")
    parser.add_argument("--limit", type=int, default=64, help="how many of the squares, evenly spread")
    parser.add_argument("--only", nargs="+", choices=[variant.name for variant in VARIANTS], metavar="NAME")
    args = parser.parse_args()
    size = CodaTokenizer.from_pretrained(tokenizer_path()).config.image_size
    squares = parity_images(size).pixels if args.squares is None else np.load(args.squares)
    step = max(1, len(squares) // args.limit)
    wanted = tuple(variant for variant in VARIANTS if not args.only or variant.name in args.only)
    for line in rows(squares[::step][: args.limit], wanted):
        print(line, flush=True)


if __name__ == "__main__":
    main()
