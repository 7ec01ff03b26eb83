"""Training steps: images a second forward and backward, and how much of it is spent outside the VAE.

``python -m benchmarks.bench_train``: the VAE alone (encoder and decoder with LoRA), then the whole tokenizer with its
quantizer, then with the quantizer as the paper writes it (softmax and one-hot matrices), in turn. Random weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import interleaved, peak_memory, save, show
from coda_deploy import CodaTokenizer
from coda_deploy.tokenizer import TokenizerOutput
from coda_deploy.tokenizer.variants import VARIANTS
from tests import textbook

NAMES = ("the VAE alone", "with this quantizer", "with the textbook's")


def tokenizer_of(shape: str) -> CodaTokenizer:
    """Return random weights in a published shape, or the sample."""
    if shape == "sample":
        from coda_deploy.sample import tokenizer_path

        return CodaTokenizer.from_pretrained(tokenizer_path())
    torch.manual_seed(0)
    return CodaTokenizer(VARIANTS[shape])


def passes(tokenizer: CodaTokenizer, images: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Return one training pass each; the loss is L2 with the quantizer's losses."""

    def backward(loss: torch.Tensor) -> None:
        loss.backward()
        tokenizer.zero_grad(set_to_none=True)

    def vae() -> None:
        backward((tokenizer.decode_latent(tokenizer.encode_latent(images)) - images).square().mean())

    def ours() -> None:
        out: TokenizerOutput = tokenizer(images)
        backward((out.reconstruction - images).square().mean() + out.vq_loss + 0.05 * out.entropy_loss)

    def theirs() -> None:
        found = textbook.quantize(tokenizer.quantizer, tokenizer.encode_latent(images))
        decoded = tokenizer.decode_latent(found.quantized)
        backward((decoded - images).square().mean() + found.vq_loss + 0.05 * found.entropy_loss)

    return dict(zip(NAMES, (vae, ours, theirs), strict=True))


def memory(shape: str, batch: int, name: str) -> float:
    """Return the MiB that one pass adds, in a process of its own."""
    code = f"from benchmarks.bench_train import peak; print(peak({shape!r}, {batch}, {name!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def peak(shape: str, batch: int, name: str) -> float:
    """Return the MiB over what the model takes."""
    tokenizer = tokenizer_of(shape).train()
    run = passes(tokenizer, torch.rand(batch, 3, *tokenizer.spec.image_shape) * 2 - 1)[name]
    before = peak_memory()
    run()
    return peak_memory() - before


def main() -> None:
    """Time the shapes asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["sample", *VARIANTS])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    results: dict[str, Any] = {"batch": args.batch}
    for shape in args.shapes:
        tokenizer = tokenizer_of(shape).train()
        images = torch.rand(args.batch, 3, *tokenizer.spec.image_shape) * 2 - 1
        images = images.contiguous(memory_format=torch.channels_last)
        tokenizer.vae.to(memory_format=torch.channels_last)
        medians = interleaved(passes(tokenizer, images), args.repeats)
        del tokenizer
        show(f"{shape}, batch {args.batch}, float32, forward and backward", medians, NAMES[2])
        found = {}
        for name, seconds in medians.items():
            outside = 1 - medians[NAMES[0]] / seconds
            found[name] = {"seconds": seconds, "images_per_second": args.batch / seconds, "outside_vae": outside}
            found[name]["peak_mib"] = memory(shape, args.batch, name)
            print(
                f"  {name:<24}{args.batch / seconds:8.3f} images/s {outside:8.1%} outside the VAE "
                f"{found[name]['peak_mib']:8.0f} MiB"
            )
        results[shape] = found
    save(args.json, results)


if __name__ == "__main__":
    main()
