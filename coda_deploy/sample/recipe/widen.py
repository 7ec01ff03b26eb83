"""Make a VAE wider without changing what it computes, so that a larger one goes on where a smaller one stopped.

Each channel is repeated, and what reads the copies shares its weights out among them, unevenly, so that they learn to
differ (Net2WiderNet, arXiv 1511.05641). Copies lie side by side: every group of a group norm holds the same values as
before, only each more often, so that mean and variance stay::

    python -m coda_deploy.sample.recipe.widen vae --widths 32,64,128,128 --out wide
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.vae import load_kl
from coda_deploy.train.vae.model import VaeModel

UNEVEN = 0.2  # how far a share may be from the even one, as a part of it


def widen(vae: AutoencoderKL, widths: tuple[int, ...], seed: int = 0) -> AutoencoderKL:
    """Return a VAE of ``widths``, each a whole multiple of ``vae``'s, which computes the same function.

    Raises ``ConfigError`` for other widths.
    """
    before = tuple(vae.config.block_out_channels)
    if len(before) != len(widths) or any(new % old for old, new in zip(before, widths, strict=True)):
        raise ConfigError(f"cannot widen {list(before)} to {list(widths)}: expected whole multiples, level by level")
    settings = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    wide = AutoencoderKL(**{**settings, "block_out_channels": widths})
    generator, old = torch.Generator().manual_seed(seed), vae.state_dict()
    state = {name: _repeat(old[name], like.shape, generator) for name, like in wide.state_dict().items()}
    wide.load_state_dict(state)
    return wide.eval()


def _repeat(tensor: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Repeat dimension 0, which holds what is written; dimension 1 of a weight, what is read, is shared out."""
    wide = tensor.repeat_interleave(shape[0] // tensor.shape[0], 0)
    if tensor.ndim == 1 or (copies := shape[1] // tensor.shape[1]) == 1:
        return wide
    shares = 1 + UNEVEN * (2 * torch.rand((*wide.shape[:2], copies), generator=generator) - 1)
    shares = shares / shares.sum(2, keepdim=True)
    return (wide[:, :, None] * shares[..., None, None]).flatten(1, 2)


def main() -> None:
    """Write the wider VAE, a diffusers folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("vae")
    parser.add_argument("--widths", required=True, type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    VaeModel(widen(load_kl(args.vae), args.widths)).save_pretrained(args.out)


if __name__ == "__main__":
    main()
