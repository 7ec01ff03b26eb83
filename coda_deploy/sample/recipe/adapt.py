"""Adapt the sample's VAE by CODA: codes from latents first, then LoRA and quantizer together on pictures.

``python -m coda_deploy.sample.recipe.adapt photos --vae vae --out tokenizer``, with ``vae`` from
:mod:`coda_deploy.sample.recipe.vae`. Each stage runs for wall-clock minutes and prints held-out figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from coda_deploy.sample.recipe.equalise import equalise
from coda_deploy.sample.recipe.vae import crops, to_unit
from coda_deploy.tokenizer import CodaTokenizer, LoraConfig
from coda_deploy.tokenizer.quantizer import Quantized, pool_rows, spread_rows

LICENCE = "Apache-2.0"
VQ_WEIGHT, ENTROPY_WEIGHT = 1.0, 0.05
# Seeding has spread the codes already; at the paper's weight the entropy would trade the picture for more spread.
PICTURE_ENTROPY_WEIGHT = 0.005
# A code chosen less often than this share of the mean counts as idle.
SELDOM = 0.15


def clock(minutes: float) -> Iterator[float]:
    """Yield the share of ``minutes`` that has gone by, until it is 1."""
    start = time.monotonic()
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        yield done


def warmed_cosine(step: int, done: float) -> float:
    """The learning rate's factor: linear over 50 steps, then a cosine over the clock down to 2 %."""
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def latents_of(tokenizer: CodaTokenizer, squares: np.ndarray) -> Tensor:
    """Latents float32 [N, C, h, w] of uint8 squares, without gradients."""
    batches = np.split(squares, range(32, len(squares), 32))
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([tokenizer.encode_latent(to_unit(batch)).float() for batch in batches])


@torch.no_grad()
def seed_codebook(tokenizer: CodaTokenizer, latents: Tensor, minutes: float, batch: int = 128) -> None:
    """Lloyd's algorithm over all scales under the tokenizer's own search, with codes kept in even use.

    A code becomes the running mean of what chooses it; one that is chosen too seldom moves to a residual drawn at
    random, which is where many are.
    """
    quantizer = tokenizer.quantizer
    vocab = len(quantizer.codebook)
    sums, counts = torch.zeros_like(quantizer.codebook), torch.zeros(vocab)
    rounds = 0
    for done in clock(minutes):
        first, residual = rounds == 0, latents[torch.randperm(len(latents))[:batch]]
        keys, targets = quantizer.search.keys(quantizer.codebook), []
        sums *= 0.8
        counts *= 0.8
        for side in quantizer.scales:
            rows = pool_rows(residual, side)
            targets.append(rows)
            # The first round has no codes yet: each position is its own value, blurred by the scale.
            ids = torch.zeros(len(rows), dtype=torch.int64) if first else quantizer.search.ids(rows, keys)
            chosen = rows * 0.7 if first else quantizer.codebook[ids]
            sums.index_add_(0, ids, rows)
            counts += torch.bincount(ids, minlength=vocab)
            residual = residual - spread_rows(chosen, side, residual.shape[-2:])
        pool = torch.cat(targets)
        if first:
            quantizer.codebook.copy_(pool[torch.randperm(len(pool))[:vocab]])
            sums.zero_()
            counts.zero_()
        else:
            used = counts > 0
            quantizer.codebook[used] = sums[used] / counts[used, None]
            if done < 0.8:
                idle = (counts < SELDOM * counts.mean()).nonzero()[:, 0]
                quantizer.codebook[idle] = pool[torch.randint(len(pool), (len(idle),))]
                sums[idle], counts[idle] = quantizer.codebook[idle] * counts.mean(), counts.mean()
        rounds += 1
    seldom = (counts < SELDOM * counts.mean()).float().mean()
    print(f"seeded in {rounds} rounds: {seldom:.1%} seldom chosen, residual {residual.square().mean():.4f}", flush=True)


def _losses(found: Quantized) -> str:
    return f"vq {found.vq_loss.item():.4f} entropy {found.entropy_loss.item():.2f}"


def train_on_latents(tokenizer: CodaTokenizer, latents: Tensor, minutes: float, lr: float, batch: int = 8) -> None:
    """The quantizer alone, on cached latents: the paper's losses and the error of the summed latent."""
    optimizer = torch.optim.AdamW(tokenizer.quantizer.parameters(), lr=lr, betas=(0.5, 0.9), weight_decay=0.0)
    for step, done in enumerate(clock(minutes)):
        for group in optimizer.param_groups:
            group["lr"] = lr * warmed_cosine(step, done)
        target = latents[torch.randint(len(latents), (batch,))]
        target = target.flip(3) if step % 2 else target
        found = tokenizer.quantizer(target)
        error = F.mse_loss(found.latent, target)
        loss = error + VQ_WEIGHT * found.vq_loss + ENTROPY_WEIGHT * found.entropy_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.quantizer.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0:
            print(f"latents {step} {done:.0%}: residual {error.item():.4f} {_losses(found)}", flush=True)


def train_on_pictures(tokenizer: CodaTokenizer, squares: np.ndarray, minutes: float, lr: float, batch: int = 8) -> None:
    """LoRA and quantizer together: L2 and L1 of the picture, and the quantizer's losses."""
    rng = np.random.default_rng(1)
    parameters = [p for _, p in tokenizer.trainable()]
    lora = [p for name, p in tokenizer.trainable() if "lora_" in name]
    groups = [{"params": lora, "peak": 3 * lr}, {"params": list(tokenizer.quantizer.parameters()), "peak": lr}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.5, 0.9), weight_decay=0.0)
    tokenizer.train()
    for step, done in enumerate(clock(minutes)):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * warmed_cosine(step, done)
        images = crops(squares, batch, tokenizer.spec.image_size, rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latent = tokenizer.encode_latent(images)
        found = tokenizer.quantizer(latent.float())
        with torch.autocast("cpu", torch.bfloat16):
            decoded = tokenizer.decode_latent(found.latent)
        mse = F.mse_loss(decoded.float(), images)
        picture = 10 * mse + 0.2 * F.l1_loss(decoded.float(), images)
        loss = picture + VQ_WEIGHT * found.vq_loss + PICTURE_ENTROPY_WEIGHT * found.entropy_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 25 == 0:
            psnr = 10 * math.log10(4 / mse.item())
            print(f"pictures {step} {done:.0%}: psnr {psnr:.2f} {_losses(found)}", flush=True)
    tokenizer.eval()


def main() -> None:
    """Adapt, and write a tokenizer folder with its VAE and LoRA in half precision."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed-minutes", type=float, default=2)
    parser.add_argument("--latent-minutes", type=float, default=3)
    parser.add_argument("--picture-minutes", type=float, default=25)
    parser.add_argument("--latent-images", type=int, default=1536)
    args = parser.parse_args()
    torch.manual_seed(0)
    train = np.load(args.photos / "train.npy", mmap_mode="r")
    chosen = train[np.sort(np.random.default_rng(0).choice(len(train), args.latent_images, replace=False))]
    vae = AutoencoderKL.from_pretrained(args.vae).to(memory_format=torch.channels_last)
    equalise(vae, chosen[:64])
    tokenizer = CodaTokenizer.from_vae(
        vae, image_size=128, vocab_size=4096, variant="sample", lora=LoraConfig(rank=8, targets=("conv1", "conv2"))
    )
    tokenizer.config = dataclasses.replace(tokenizer.config, license=LICENCE)
    latents = latents_of(tokenizer, chosen)
    print(f"{len(latents)} latents, standard deviation {latents.std():.3f}", flush=True)
    seed_codebook(tokenizer, latents, args.seed_minutes)
    tokenizer.save_pretrained(args.out)
    train_on_latents(tokenizer, latents, args.latent_minutes, lr=3e-4)
    tokenizer.save_pretrained(args.out)
    train_on_pictures(tokenizer, train, args.picture_minutes, lr=1e-4)
    tokenizer.save_pretrained(args.out, dtype=torch.float16)


if __name__ == "__main__":
    main()
