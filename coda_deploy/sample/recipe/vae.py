"""Train the sample's continuous VAE: a diffusers AutoencoderKL, f8, 16 latent channels, for wall-clock minutes.

``python -m coda_deploy.sample.recipe.vae photos --out vae --minutes 60``, with ``photos`` from
:mod:`coda_deploy.sample.recipe.photographs`. The learning rate follows the clock, so that the recipe ends well on
any machine; PSNR on the held-out squares is printed as it goes and at the end.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coda_deploy.tokenizer.pixels import from_pixels

# Four groups, not 32: the backward pass of GroupNorm on a CPU costs more the fewer channels a group has.
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 128, 128),
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "sample_size": 128,
}
EMA_DECAY = 0.998


def crops(squares: np.ndarray, count: int, side: int, rng: np.random.Generator) -> Tensor:
    """``count`` random crops, each flipped half of the time: float32 [count, 3, side, side] in [-1, 1]."""
    out = np.empty((count, side, side, 3), np.uint8)
    for i, n in enumerate(rng.integers(0, len(squares), count)):
        y, x = rng.integers(0, squares.shape[1] - side + 1, 2)
        crop = squares[n, y : y + side, x : x + side]
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return from_pixels(torch.from_numpy(out))


@torch.inference_mode()
def held_out_psnr(vae: AutoencoderKL, squares: np.ndarray) -> float:
    """Mean over the images of the PSNR in dB between uint8 input and uint8 reconstruction, float32, posterior mode."""
    values = []
    for batch in np.split(squares, range(32, len(squares), 32)):
        decoded = vae.decode(vae.encode(from_pixels(torch.from_numpy(batch))).latent_dist.mode()).sample
        pixels = decoded.mul(127.5).add(127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
        mse = np.mean((pixels - batch.astype(np.float32)) ** 2, axis=(1, 2, 3))
        values += [10 * math.log10(255**2 / max(float(m), 1e-9)) for m in mse]
    return float(np.mean(values))


def main() -> None:
    """Train, and write a diffusers AutoencoderKL folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    train = np.load(args.photos / "train.npy", mmap_mode="r")
    held_out = np.load(args.photos / "held_out.npy")
    vae = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    ema = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    ema.load_state_dict(vae.state_dict())
    print(f"{sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M parameters", flush=True)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
    start, step, last_eval = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        images = crops(train, args.batch, args.crop, rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        mse = (decoded - images).pow(2).mean()
        loss = mse + 0.05 * (decoded - images).abs().mean() + 1e-6 * posterior.kl().float().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 0.5)
        optimizer.step()
        step += 1
        with torch.no_grad():
            decay = min(EMA_DECAY, step / (step + 20))
            for slow, fast in zip(ema.parameters(), vae.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        if step % 100 == 0:
            print(f"{step} {done:.1%} train psnr {10 * math.log10(4 / mse.item()):.2f}", flush=True)
        if time.monotonic() - last_eval > 300:
            print(f"step {step}: held-out {held_out_psnr(ema, held_out[::8]):.2f} dB (every 8th square)", flush=True)
            ema.save_pretrained(args.out)
            last_eval = time.monotonic()
    ema.save_pretrained(args.out)
    print(f"{step} steps, held-out PSNR {held_out_psnr(ema, held_out):.3f} dB over {len(held_out)} squares")


if __name__ == "__main__":
    main()
