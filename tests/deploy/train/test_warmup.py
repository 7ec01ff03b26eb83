"""The quantizer alone, on latents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from coda_deploy.tokenizer.quantizer import ResidualQuantizer
from coda_deploy.train.config import LossSection, WarmupSection
from coda_deploy.train.warmup import _draw, cache_latents, seed_codebook, train_on_latents
from tests.tiny_tokenizers import images, make

pytestmark = pytest.mark.numeric

CHANNELS, SIDE, CODES = 4, 8, 48


def quantizer(codes: int = CODES) -> ResidualQuantizer:
    torch.manual_seed(0)
    return ResidualQuantizer(codes, CHANNELS, (1, 2, 4, SIDE), 8, "rms", 1e-5)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    """More kinds of value than there are codes: each position is one of 200 points, and a little off."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(200, CHANNELS, generator=generator)
    ids = torch.randint(200, (24, SIDE, SIDE), generator=generator)
    return (points[ids] + 0.05 * torch.randn(24, SIDE, SIDE, CHANNELS, generator=generator)).permute(0, 3, 1, 2)


def used(quantizer: ResidualQuantizer, latents: Tensor) -> float:
    return len(quantizer.encode(latents).unique()) / len(quantizer.codebook)


@torch.no_grad()
def error(quantizer: ResidualQuantizer, latents: Tensor) -> float:
    return float((quantizer.embed(quantizer.encode(latents)) - latents).square().mean())


def test_seeding_uses_the_codes(latents: Tensor) -> None:
    given, told = quantizer(), []
    before = error(given, latents)
    seed_codebook(given, latents, 20, 0, lambda step, metrics: told.append((step, metrics)))
    assert used(given, latents) > 0.95
    assert error(given, latents) < 0.6 * before
    # The first round only draws codes.
    assert [step for step, _ in told] == list(range(2, 21))
    assert told[-1][1]["residual"] < told[0][1]["residual"]
    assert 0 <= told[-1][1]["seldom chosen"] < 0.2


def test_values_stay_the_codes_themselves(latents: Tensor) -> None:
    given = quantizer()
    seed_codebook(given, latents, 3, 0)
    assert torch.equal(given.search.values(given.codebook), given.codebook)
    assert given.codebook.requires_grad


def test_few_latents_for_many_codes(latents: Tensor) -> None:
    given = quantizer(500)
    seed_codebook(given, latents[:1], 4, 0)
    assert torch.isfinite(given.codebook).all()
    assert len(given.codebook.unique(dim=0)) > 80


def test_steps_lower_the_loss(latents: Tensor) -> None:
    given, told = quantizer(), []
    before = error(given, latents)
    settings = WarmupSection(images=24, steps=40, batch=8, lr=1e-2)
    train_on_latents(given, latents, settings, LossSection(), 0, lambda step, metrics: told.append((step, metrics)))
    assert [step for step, _ in told] == list(range(1, 41))
    losses = [metrics["residual"] + metrics["vq"] for _, metrics in told]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert error(given, latents) < 0.8 * before


def test_the_weights_of_the_terms_count(latents: Tensor) -> None:
    settings = WarmupSection(images=24, steps=2, batch=8, lr=1e-2)
    found = []
    for changed, loss in (
        (settings, LossSection()),
        (settings, LossSection(vq=0)),
        (replace(settings, entropy=0.0), LossSection()),
    ):
        given = quantizer()
        train_on_latents(given, latents, changed, loss, 0)
        found.append(torch.cat([tensor.detach().flatten() for tensor in given.state_dict().values()]))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_seed_alone_decides(latents: Tensor) -> None:
    found = []
    for seed, noise in ((3, 0), (3, 1), (4, 0)):
        given = quantizer()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        seed_codebook(given, latents, 4, seed)
        train_on_latents(given, latents, WarmupSection(images=24, steps=3, batch=4), LossSection(), seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(given.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert not torch.equal(found[0]["codebook"], found[2]["codebook"])


def test_latents_are_cached_once() -> None:
    tokenizer, given = make(), images(10)
    batches = iter(given.split(4))
    found = cache_latents(tokenizer, batches, 6)
    assert torch.equal(found, torch.cat([tokenizer.encode_latent(given[:4]), tokenizer.encode_latent(given[4:8])])[:6])
    assert next(batches).shape[0] == 2
    assert not found.requires_grad
    rounded = cache_latents(tokenizer, iter([given[:4]]), 4, bf16=True)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - found[:4]).abs().max() < 0.1 * found.abs().max()


def test_a_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    assert sorted(_draw(5, 5, generator).tolist()) == list(range(5))
    assert len(set(_draw(50, 5, generator).tolist())) == 5
    many = _draw(3, 50, generator)
    assert (len(many), set(many.tolist())) == (50, {0, 1, 2})
