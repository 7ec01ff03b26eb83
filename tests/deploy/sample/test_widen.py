"""A VAE made wider computes what it did, and its new channels learn on their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from coda_deploy import ConfigError
from coda_deploy.sample.recipe.widen import widen
from coda_deploy.train.vae.model import VaeModel
from tests.deploy.train import runs

pytestmark = pytest.mark.numeric


def test_it_computes_the_same() -> None:
    vae, pixels = runs.make_vae().eval(), torch.rand(2, 3, 16, 16) * 2 - 1
    wide = widen(vae, (8, 24))
    assert wide.config.block_out_channels == (8, 24)
    with torch.no_grad():
        latent = vae.encode(pixels).latent_dist
        other = wide.encode(pixels).latent_dist
        torch.testing.assert_close(other.mean, latent.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.logvar, latent.logvar, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            wide.decode(latent.mean).sample, vae.decode(latent.mean).sample, rtol=1e-4, atol=1e-5
        )


def test_copies_take_different_gradients() -> None:
    wide = widen(runs.make_vae(), (8, 8)).requires_grad_(True)
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    wide.decode(wide.encode(pixels).latent_dist.mean).sample.square().mean().backward()
    gradient = wide.encoder.conv_in.weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[0::2], gradient[1::2])


@pytest.mark.parametrize("widths", [(6, 8), (8,), (8, 8, 8)])
def test_other_widths_are_rejected(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"cannot widen \[4, 8\] to .*expected whole multiples, level by level"):
        widen(runs.make_vae(), widths)


def test_from_the_command_line(tmp_path: Path) -> None:
    VaeModel(runs.make_vae()).save_pretrained(tmp_path / "vae")
    command = [sys.executable, "-m", "coda_deploy.sample.recipe.widen", "vae", "--widths", "8,8", "--out", "wide"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert AutoencoderKL.from_pretrained(tmp_path / "wide").config.block_out_channels == [8, 8]
