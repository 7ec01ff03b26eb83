"""Held-out figures of a tokenizer: ``python -m coda_deploy.sample.recipe.evaluate photos tokenizer``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from coda_deploy.reference import to_pixels
from coda_deploy.tokenizer import CodaTokenizer
from coda_runtime.metrics import psnr_per_image


@torch.inference_mode()
def evaluate(tokenizer: CodaTokenizer, squares: np.ndarray) -> dict[str, float]:
    """PSNR in dB of the continuous VAE (LoRA off is not meant: the adapted one) and of the tokens; codebook use."""
    continuous, discrete, counts = [], [], torch.zeros(tokenizer.spec.vocab_size)
    for batch in np.split(squares, range(16, len(squares), 16)):
        latent = tokenizer.encode_latent(torch.from_numpy(batch))
        ids = tokenizer.quantizer.encode(latent)
        counts += torch.bincount(ids.flatten(), minlength=len(counts))
        discrete += list(psnr_per_image(to_pixels(tokenizer.decode(ids)).numpy(), batch))
        continuous += list(psnr_per_image(to_pixels(tokenizer.decode_latent(latent)).numpy(), batch))
    share = counts / counts.sum()
    return {
        "images": float(len(squares)),
        "continuous_psnr": float(np.mean(continuous)),
        "psnr": float(np.mean(discrete)),
        "codebook_utilization": float((counts > 0).float().mean()),
        "codebook_perplexity": float(torch.exp(-(share * (share + 1e-12).log()).sum())),
    }


def main() -> None:
    """Print the figures on ``held_out.npy``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--every", type=int, default=1, help="use every n-th square")
    args = parser.parse_args()
    squares = np.load(args.photos / "held_out.npy")[:: args.every]
    for name, value in evaluate(CodaTokenizer.from_pretrained(args.tokenizer), squares).items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
