"""A change of basis: the same pictures, and errors that cost the same in every direction."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coda_deploy.families import FAMILIES
from coda_deploy.tokenizer.config import LoraConfig
from coda_deploy.train.latent_basis import BATCH, change_basis, make_isotropic, passes, sensitivity
from tests.tiny_tokenizers import VAES, images, make, make_vae

pytestmark = pytest.mark.numeric
KL = FAMILIES["AutoencoderKL"]


def pixels(count: int = 4) -> Tensor:
    return images(count, 16).permute(0, 3, 1, 2).float() / 127.5 - 1


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL) -> Tensor:
    decoded: Tensor = vae.decode(vae.encode(pixels()).latent_dist.mode()).sample
    return decoded


@pytest.mark.parametrize("family", list(VAES))
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_every_family(family: str, scale: float) -> None:
    vae = make_vae(family)
    before, (metric, _) = reconstruct(vae), sensitivity(vae, KL, pixels(), generator())
    spread = torch.linalg.eigvalsh(metric)
    assert spread[-1] > 3 * spread[0]  # it was not so already
    deviations = vae.encode(pixels()).latent_dist.std
    make_isotropic(vae, KL, pixels(), generator(), scale)
    assert (reconstruct(vae) - before).abs().max() < 1e-4 * before.abs().max()
    metric, covariance = sensitivity(vae, KL, pixels(), generator())
    channels = len(metric)
    expected = torch.trace(metric) / channels * torch.eye(channels, dtype=torch.float64)
    # The same probes as before see exactly what the change of basis was made of.
    torch.testing.assert_close(metric, expected, rtol=1e-3, atol=float(expected[0, 0]) * 1e-3)
    assert scale**2 * torch.trace(covariance).item() / channels == pytest.approx(1, rel=1e-3)
    # Only the means have turned.
    torch.testing.assert_close(vae.encode(pixels()).latent_dist.std, deviations)


def test_the_latent_is_what_the_matrix_says() -> None:
    vae = make_vae("flux")
    before = vae.encode(pixels()).latent_dist.mode()
    matrix = torch.randn(16, 16, dtype=torch.float64, generator=generator())
    change_basis(vae, KL, matrix)
    expected = torch.einsum("ij,bjhw->bihw", matrix.float(), before)
    torch.testing.assert_close(vae.encode(pixels()).latent_dist.mode(), expected, rtol=1e-3, atol=1e-3)


def test_lora_on_the_last_layer_turns_too() -> None:
    tokenizer = make("flux", alive=False, lora=LoraConfig(2, ("conv_out", "conv_in")))
    before = reconstruct(tokenizer.vae)
    make_isotropic(tokenizer.vae, KL, pixels(), generator())
    assert (reconstruct(tokenizer.vae) - before).abs().max() < 1e-4 * before.abs().max()


def test_the_metric_is_that_of_the_decoder() -> None:
    """Against the whole Jacobian, worked out pixel by pixel."""
    vae, given = make_vae("sd"), images(1, 8).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latent = vae.encode(given).latent_dist.mode()
    jacobian = torch.autograd.functional.jacobian(lambda z: vae.decode(z).sample.flatten(), latent)
    rows = jacobian[:, 0].double().flatten(2)  # [pixels, channels, positions]
    exact = torch.einsum("pil,pjl->ij", rows, rows) / rows.shape[2]
    found = sum(sensitivity(vae, KL, given, torch.Generator().manual_seed(seed))[0] for seed in range(100)) / 100
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.05 * float(exact.abs().max()))


def test_every_pass_is_reported_and_may_be_the_last() -> None:
    vae, given = make_vae("flux"), pixels(BATCH + 1)
    told: list[int] = []
    sensitivity(vae, KL, given, generator(), told.append)
    assert told == list(range(1, passes(len(given)) + 1))

    def stop(done: int) -> None:
        if done == 3:
            raise InterruptedError

    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with pytest.raises(InterruptedError):
        make_isotropic(vae, KL, given, generator(), progress=stop)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
