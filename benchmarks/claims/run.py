"""Train every variant on the same crops and measure each on photographs that none of them saw.

``python -m benchmarks.claims.run photos --vae vae --out claims.json``, with ``photos`` from
`coda_deploy.sample.recipe` and ``vae`` from ``coda train-vae --config sample``; LPIPS reads what
``coda weights lpips`` brings. Each variant is trained once a seed. A run is written when it is complete, and the same
command goes on with those that are missing. Costs are CPU seconds of the training alone, so that other load on the
machine does not change them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from benchmarks.claims.variants import VARIANTS, Variant, build
from benchmarks.common import machine
from coda_deploy.data import Crop, TrainLoader, open_source
from coda_deploy.evaluate.similarity import ssim_per_image
from coda_deploy.evaluate.usage import perplexity, utilization
from coda_deploy.families import family_of_module
from coda_deploy.perception import Lpips
from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.tokenizer.pixels import from_pixels, to_pixels
from coda_deploy.train.config import TrainConfig, read_config
from coda_deploy.train.latent_basis import make_isotropic
from coda_deploy.train.objective import Objective
from coda_deploy.train.schedule import Schedule
from coda_deploy.train.state import RunState
from coda_deploy.train.step import Stepper
from coda_deploy.train.warmup import cache_latents, seed_codebook
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.io.atomic_files import staged_file

SIDE = 64
SCALES = (1, 2, 3, 4, 6, 8)
WARM_IMAGES, WARM_ROUNDS = 2048, 40
PAPER = (
    "loss.l1=0.2",
    "loss.l2=1.0",
    "loss.lpips=1.0",
    "loss.gan=0.0",
    "loss.vq=1.0",
    "loss.entropy=0.05",
    "loss.prefix=0.0",
)


def configuration(variant: Variant, steps: int, seed: int, changes: Sequence[str] = ()) -> TrainConfig:
    """Return the paper's objective without discriminator, at this size; ``changes`` are not for warmed-up variants."""
    scales = [SCALES[-1]] if variant.name in ("single", "vq") else list(SCALES)
    settings = [
        f"tokenizer.image_size={SIDE}",
        f"tokenizer.scales={scales}",
        "tokenizer.vocab_size=1024",
        "optim.batch=16",
        f"optim.seed={seed}",
        f"optim.steps={round(steps * variant.steps)}",
        f"optim.lr={variant.lr}",
        f"optim.lr_quantizer={variant.lr_quantizer}",
        "optim.clip=10.0" if not variant.scratch else "optim.clip=1.0",
        *PAPER,
        "warmup.images=0",
        "warmup.steps=0",
        "warmup.equalise=false",
        *variant.settings,
        *([] if variant.warm else changes),
    ]
    return read_config("sample", settings)


@torch.no_grad()
def measure(tokenizer: CodaTokenizer, squares: np.ndarray, lpips: Lpips) -> dict[str, float]:
    """Measure PSNR, SSIM and LPIPS from tokens, PSNR of the continuous path, and use of the codebook."""
    values: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": [], "continuous_psnr": []}
    counts = np.zeros(tokenizer.spec.vocab_size, np.int64)
    for batch in np.split(squares, range(64, len(squares), 64)):
        latent = tokenizer.encode_latent(torch.from_numpy(batch))
        ids = tokenizer.quantizer.encode(latent)
        counts += np.bincount(ids.numpy().ravel(), minlength=len(counts))
        back = to_pixels(tokenizer.decode(ids)).numpy()
        values["psnr"] += list(psnr_per_image(back, batch))
        values["ssim"] += list(ssim_per_image(back, batch))
        values["lpips"] += lpips(from_pixels(torch.from_numpy(back)), from_pixels(torch.from_numpy(batch))).tolist()
        values["continuous_psnr"] += list(psnr_per_image(to_pixels(tokenizer.decode_latent(latent)).numpy(), batch))
    means = {name: float(np.mean(found)) for name, found in values.items()}
    return {**means, "utilization": utilization(counts), "perplexity": perplexity(counts)}


def train(
    variant: Variant, config: TrainConfig, photos: Path, vae: Path, lpips: Lpips, budget: float
) -> dict[str, Any]:
    """Train one run of a variant, which ends at a step that is not finite.

    ``budget`` is CODA's CPU seconds, which a warmed-up one may not exceed.
    """
    tokenizer = build(variant, config, vae)
    tokenizer.vae.to(memory_format=torch.channels_last)
    state = RunState(tokenizer.train(), None, config.optim)
    schedule = Schedule(config.optim.steps, config.optim, config.loss)
    stepper = Stepper(config, Accelerator(cpu=True), state, Objective(config.loss, lpips, None), schedule)
    loader = TrainLoader(
        open_source(photos / "train.npy"),
        Crop(SIDE, zoom=2.0, flip=True),
        batch_size=config.optim.batch,
        seed=config.optim.seed,
    )
    held_out = np.load(photos / "held_out.npy")[:, 32 : 32 + SIDE, 32 : 32 + SIDE].copy()
    spent, curve, finite = 0.0, list[dict[str, float]](), True
    if variant.warm:
        spent = warm(tokenizer, config, loader)
        state.restart_averages()
    total, every = config.optim.steps, max(1, config.optim.steps // 10)
    with closing(loader.batches()) as batches:
        for step, batch in enumerate(islice(batches, total)):
            begun = time.process_time()
            # A warmed-up run ends its schedule where CODA's time is over.
            share = step if not variant.warm else min(total - 1, int(total * spent / budget))
            terms = stepper.run(share, [batch])
            spent += time.process_time() - begun
            if not (finite := all(bool(torch.isfinite(term)) for term in terms.values())):
                break
            if (step + 1) % every == 0 or step == 0:
                point = {"step": step + 1, "cpu_seconds": spent, **measure(tokenizer.eval(), held_out[::6], lpips)}
                tokenizer.train()
                curve.append(point)
                print(f"{variant.name} {step + 1}/{total} {point} loss {float(terms['total']):.4f}", flush=True)
            if variant.warm and spent >= budget:
                break
    with state.ema.applied():
        metrics = measure(tokenizer.eval(), held_out, lpips) if finite else {}
    spec = tokenizer.spec
    bits = spec.num_tokens * math.log2(spec.vocab_size) / SIDE**2
    return {
        "label": variant.label,
        "seed": config.optim.seed,
        "finite": finite,
        **metrics,
        "tokens": spec.num_tokens,
        "bits_per_pixel": bits,
        "steps": step + 1,
        "cpu_seconds": spent,
        "curve": curve,
    }


def warm(tokenizer: CodaTokenizer, config: TrainConfig, loader: TrainLoader) -> float:
    """Seed the codebook and train the quantizer alone on latents; return the CPU seconds."""
    begun = time.process_time()
    with closing(loader.batches()) as batches:
        latents = cache_latents(tokenizer, (b.images for b in batches), WARM_IMAGES, bf16=True)
    seed_codebook(tokenizer.quantizer, latents, WARM_ROUNDS, seed=config.optim.seed)
    return time.process_time() - begun


def main() -> None:
    """Train and measure what the file has not yet; results are added to it as they come."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=240, help="CODA's; plain VQ gets 6 times as many")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="settings to change, but for warmed-up variants")
    parser.add_argument("--only", nargs="*", default=[variant.name for variant in VARIANTS])
    args = parser.parse_args()
    # One basis of the latent for all of them, with a standard deviation of one as the published latents have.
    vae = AutoencoderKL.from_pretrained(args.vae)
    squares = np.load(args.photos / "train.npy", mmap_mode="r")[::160]
    unit = from_pixels(torch.from_numpy(squares.copy()))
    make_isotropic(vae, family_of_module(vae), unit, torch.Generator().manual_seed(0))
    base = args.out.with_suffix(".vae")
    vae.save_pretrained(base)
    asked = {"steps": args.steps, "set": args.set}
    results = begin(args.out, asked)
    lpips, runs = Lpips(), results["runs"]
    for seed, variant in product(range(args.seeds), VARIANTS):
        name = f"{variant.name}/{seed}"
        if variant.name not in args.only or name in runs:
            continue
        budget = runs.get(f"coda/{seed}", {}).get("cpu_seconds", float("inf"))
        config = configuration(variant, args.steps, seed, args.set)
        runs[name] = train(variant, config, args.photos, base, lpips, budget)
        with staged_file(args.out) as file:
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(name, {k: v for k, v in runs[name].items() if k != "curve"}, flush=True)


def begin(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what ``out`` holds of the same measurement, or a new one. End the program for another's."""
    if not out.exists():
        return {"machine": machine(), "asked": asked, "runs": {}}
    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if results.get("asked") != asked:
        raise SystemExit(f"{out} was measured with {results.get('asked')}, asked now is {asked}: choose another --out")
    return results


if __name__ == "__main__":
    main()
