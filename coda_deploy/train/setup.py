"""What happens before the first step: the networks that judge, and the quantizer's warm-up on latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from coda_deploy.errors import DivergedError
from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.tokenizer.pixels import from_pixels
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.discriminator import Discriminator
from coda_deploy.train.latent_basis import check_basis, make_isotropic, passes
from coda_deploy.train.objective import Critic, Objective
from coda_deploy.train.report import Report
from coda_deploy.train.sections import Configuration
from coda_deploy.train.warmup import Progress, cache_latents, seed_codebook, train_on_latents

BASIS_IMAGES = 64


def make_objective(config: Configuration, device: torch.device) -> Objective:
    """Make the image terms, with their networks where the weights are not 0.

    Raises ``WeightsError`` for weights that are not here and cannot be had, ``MissingDependencyError`` for a library.
    """
    loss = config.loss
    lpips: nn.Module | None = None
    critic: Critic | None = None
    # What libraries draw for networks that are then loaded is nobody's business either.
    with torch.random.fork_rng(devices=[]):
        if loss.lpips:
            from coda_deploy.perception import Lpips

            lpips = Lpips(loss.lpips_weights or None, option="loss.lpips_weights").to(device)
        if loss.gan:
            from coda_deploy.perception import DinoFeatures

            features = DinoFeatures(loss.dino_weights or None, option="loss.dino_weights")
            torch.manual_seed(config.optim.seed + 1)
            critic = Critic(features, Discriminator())
            critic.to_device(device)
    return Objective(loss, lpips, critic)


def warm_up(
    config: TrainConfig,
    tokenizer: CodaTokenizer,
    batches: Iterator[Tensor],
    report: Report,
    pulse: Callable[[], None] = lambda: None,
) -> None:
    """Train the quantizer alone as ``config.warmup`` says, on uint8 ``batches`` [B, H, W, 3].

    Every process does the same; the first one's weights are taken over when the model is wrapped. ``pulse`` is called
    after every batch, round and step, and may raise. Raises ``DivergedError`` for codes that are not finite.
    """
    settings, seed = config.warmup, config.optim.seed
    device, bf16 = tokenizer.quantizer.codebook.device, config.optim.bf16
    tokenizer.eval()
    if settings.equalise:
        check_basis(tokenizer.vae, tokenizer.family)
        with _phase(report, "images", BASIS_IMAGES, pulse) as shown:
            images = _take(batches, BASIS_IMAGES, shown).to(device)
        unit = from_pixels(images).contiguous(memory_format=torch.channels_last)
        with _phase(report, "latent's basis", passes(len(unit)), pulse) as shown:
            generator, scale = torch.Generator().manual_seed(seed), tokenizer.config.latent_scale
            vae, family = tokenizer.vae, tokenizer.family
            make_isotropic(vae, family, unit, generator, scale, lambda done: shown(done, {}))
    if settings.images:
        with _phase(report, "caching latents", settings.images, pulse) as shown:
            latents = cache_latents(tokenizer, batches, settings.images, bf16=bf16, progress=shown)
        if settings.rounds:
            with _phase(report, "seeding", settings.rounds, pulse) as shown:
                seed_codebook(tokenizer.quantizer, latents, settings.rounds, seed, shown)
        if settings.steps:
            with _phase(report, "latents", settings.steps, pulse) as shown:
                train_on_latents(tokenizer.quantizer, latents, settings, config.loss, seed, shown)
    for name, tensor in tokenizer.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} is not finite after the warm-up: lower warmup.lr")
    tokenizer.train()


def _take(batches: Iterator[Tensor], count: int, progress: Progress) -> Tensor:
    """Join whole batches, until there are at least ``count`` images."""
    found: list[Tensor] = []
    while (have := sum(map(len, found))) < count:
        found.append(next(batches))
        progress(min(count, have + len(found[-1])), {})
    return torch.cat(found)


@contextmanager
def _phase(report: Report, name: str, total: int, pulse: Callable[[], None]) -> Iterator[Progress]:
    """Show about ten lines, or a bar, for ``total`` steps; every one of them may be the last."""
    with report.phase(name, total) as phase:
        every, shown = max(1, total // 10), 0

        def progress(step: int, metrics: dict[str, float]) -> None:
            nonlocal shown
            pulse()
            phase.advance(step)
            if step >= shown + every or step == total:
                shown = step
                phase.show(step, metrics)

        yield progress
