"""The quantizer alone, on cached latents: cheap steps before LoRA and the image losses join.

First Lloyd's algorithm over all scales, from residuals as the scales really leave them; then gradient descent on the
quantizer's own losses and the error of the summed latent. The VAE runs once per image, and only its encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.tokenizer.quantizer import ResidualQuantizer, pool_rows, spread_rows
from coda_deploy.train.config import LossSection, WarmupSection
from coda_deploy.train.schedule import cosine

Progress = Callable[[int, dict[str, float]], None]
# A code chosen less often than this share of the mean counts as idle.
SELDOM = 0.15
SEED_IMAGES = 128
FORGET = 0.8
CLIP = 1.0


@torch.no_grad()
def cache_latents(
    tokenizer: CodaTokenizer,
    batches: Iterator[Tensor],
    count: int,
    *,
    bf16: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Compute latents float32 [count, C, h, w] of uint8 batches [B, H, W, 3], on the tokenizer's device.

    ``progress`` is told after every batch how many there are, and may raise.
    """
    device = tokenizer.quantizer.codebook.device
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found.append(tokenizer.encode_latent(next(batches).to(device)).float())
        if progress is not None:
            progress(min(count, sum(map(len, found))), {})
    return torch.cat(found)[:count]


@torch.no_grad()
def seed_codebook(
    quantizer: ResidualQuantizer, latents: Tensor, rounds: int, seed: int, progress: Progress | None = None
) -> None:
    """Run Lloyd's algorithm over all scales under the quantizer's own search, with codes kept in even use.

    A code becomes the running mean of what chooses it; one that is chosen too seldom moves to a residual drawn at
    random, which is where many are. ``latents`` float32 [N, C, h, w].
    """
    generator = torch.Generator().manual_seed(seed)
    codebook, vocab = quantizer.codebook, len(quantizer.codebook)
    sums, counts = torch.zeros_like(codebook), torch.zeros(vocab, device=codebook.device)
    for round_ in range(rounds):
        first, last_fifth = round_ == 0, round_ >= 0.8 * rounds
        residual = latents[_draw(len(latents), min(SEED_IMAGES, len(latents)), generator)]
        keys, targets = quantizer.search.keys(codebook), []
        sums *= FORGET
        counts *= FORGET
        for shape in quantizer.shapes:
            rows = pool_rows(residual, shape)
            targets.append(rows)
            # The first round has no codes yet: each position is its own value, shrunk as a code would be.
            if first:
                chosen = rows * 0.7
            else:
                ids = quantizer.search.ids(rows, keys)
                chosen = codebook[ids]
                sums.index_add_(0, ids, rows)
                counts += torch.bincount(ids, minlength=vocab)
            residual = residual - spread_rows(chosen, shape, residual.shape[-2:])
        pool = torch.cat(targets)
        if first:
            # Too few rows for so many codes are told apart by a little noise.
            noise = torch.randn(codebook.shape, generator=generator).to(pool.device)
            codebook.copy_(pool[_draw(len(pool), vocab, generator)] + 0.01 * pool.std() * noise)
            continue
        used = counts > 0
        codebook[used] = sums[used] / counts[used, None]
        idle = (counts < SELDOM * counts.mean()).nonzero()[:, 0]
        if not last_fifth and len(idle):
            codebook[idle] = pool[torch.randint(len(pool), (len(idle),), generator=generator)]
            sums[idle], counts[idle] = codebook[idle] * counts.mean(), counts.mean()
        if progress is not None:
            error, seldom = float(residual.square().mean()), len(idle) / vocab
            progress(round_ + 1, {"residual": error, "seldom chosen": seldom})


def train_on_latents(
    quantizer: ResidualQuantizer,
    latents: Tensor,
    settings: WarmupSection,
    loss: LossSection,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Minimise the quantizer's losses and the summed latent's error, AdamW with a cosine; ``latents`` [N, C, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=settings.lr, betas=(0.5, 0.9), weight_decay=0.0)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * cosine(step, settings.steps, 0.02)
        target = latents[_draw(len(latents), min(settings.batch, len(latents)), generator)]
        found = quantizer(target)
        error = F.mse_loss(found.latent, target)
        optimizer.zero_grad()
        (error + loss.vq * found.vq_loss + settings.entropy * found.entropy_loss).backward()
        torch.nn.utils.clip_grad_norm_(quantizer.parameters(), CLIP)
        optimizer.step()
        if progress is not None:
            progress(step + 1, {"residual": error.item(), "vq": found.vq_loss.item()})


def _draw(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` indices under ``total``, each once as long as there are enough."""
    if count <= total:
        return torch.randperm(total, generator=generator)[:count]
    return torch.randint(total, (count,), generator=generator)
