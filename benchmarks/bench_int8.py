"""int8 made in other ways, on the sample tokenizer: what each loses, and how fast its graphs are beside float32.

    python -m benchmarks.bench_int8 [--squares held_out.npy]

On the eight photographs that parity is measured on, or on squares that no training saw (`held_out.npy` of
coda_deploy.sample.recipe.photographs), whose mean says more than that of eight. Speeds are of one image and one thread,
in turn; on a busy machine they mean little.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

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
from coda_runtime.parity import ParitySamples, psnr_loss

Array = NDArray[Any]
ROUNDS = 9


@dataclass(frozen=True)
class Variant:
    """A way to make int8, and how many of the calibration images it sees, from which set."""

    name: str
    ways: Ways = field(default_factory=Ways)
    images: int = 16
    of: str = "photographs"


VARIANTS = (
    Variant("as exported"),
    Variant("without bringing channels to one magnitude", Ways(equalised=False)),
    Variant("first and last convolutions too", Ways(float_ends=False)),
    Variant("one scale for a weight", Ways(per_channel=False)),
    Variant("activations cut at 90 % of the largest", Ways(share=0.9)),
    Variant("activations cut at 70 % of the largest", Ways(share=0.7)),
    Variant("eight photographs", images=8),
    Variant("four photographs", images=4),
    Variant("one photograph", images=1),
    Variant("sixteen images of noise", of="noise"),
)


def runner(model: onnx.ModelProto) -> Callable[[Array], Array]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()

    def run(rows: Array) -> Array:
        parts = [session.run(None, {entry.name: rows[start : start + 8]})[0] for start in range(0, len(rows), 8)]
        return np.concatenate(parts)

    return run


def ratio(exact: Callable[[Array], Array], made: Callable[[Array], Array], row: Array) -> float:
    seconds = interleave([lambda: exact(row), lambda: made(row)], ROUNDS, min_rounds=3, budget_s=3)
    exact_s, made_s = (statistics.median(of) for of in seconds)
    return exact_s / made_s


def rows(squares: Array) -> Iterator[str]:
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
    for variant in VARIANTS:
        pixels = sets[variant.of][:: len(photographs) // variant.images]
        calibration = ParitySamples.take(reference, pixels)
        given: tuple[Array, Array] = calibration.images, calibration.ids
        encode, decode = (
            runner(quantized_graph(graph, inputs, variant.ways)) for graph, inputs in zip(graphs, given, strict=True)
        )
        latent = encode(known.images)
        ids = reference.encode(latent)
        apart = psnr_per_image(decode(known.ids), known.decoded)
        lost = psnr_loss(known.images, decode(ids), known.decoded)
        cells = [
            variant.name,
            f"{100 * np.linalg.norm(latent - known.latent) / np.linalg.norm(known.latent):.1f} %",
            f"{100 * (ids == reference.step(known.latent, ids)).mean():.1f} %",
            f"{apart.mean():.1f} dB, {apart.min():.1f}",
            f"{lost['psnr_drop']:.2f} dB, {lost['psnr_drop_max']:.2f}",
            f"{ratio(exact[0], encode, known.images[:1]):.1f}, {ratio(exact[1], decode, known.ids[:1]):.1f} times",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squares", type=Path, help="uint8 [N, H, W, 3] of the sample's size; the photographs else")
    parser.add_argument("--limit", type=int, default=64, help="how many of the squares, evenly spread")
    args = parser.parse_args()
    size = CodaTokenizer.from_pretrained(tokenizer_path()).config.image_size
    squares = parity_images(size).pixels if args.squares is None else np.load(args.squares)
    step = max(1, len(squares) // args.limit)
    for line in rows(squares[::step][: args.limit]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
