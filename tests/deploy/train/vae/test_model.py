"""The VAE in training: its posterior's noise, its divergence, its folder."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from coda_deploy.tokenizer.pixels import from_pixels
from coda_deploy.tokenizer.vae import load_vae
from coda_deploy.train.vae.model import VaeModel
from coda_runtime.errors import OutputError
from tests.deploy.train.vae import trainings
from tests.tiny_tokenizers import images

pytestmark = pytest.mark.numeric


@pytest.fixture
def model() -> VaeModel:
    return VaeModel.build(trainings.config())


def test_the_seed_alone_decides(model: VaeModel) -> None:
    state = torch.get_rng_state()
    again, other = VaeModel.build(trainings.config()), VaeModel.build(trainings.config(optim={"seed": 7}))
    given = from_pixels(images(3, 16))
    first, second, third = model(given, 1), again(given, 1), model(given, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.reconstruction, second.reconstruction)
    assert not torch.equal(first.reconstruction, third.reconstruction)
    assert first.kl == third.kl
    assert not torch.equal(model.vae.encoder.conv_in.weight, other.vae.encoder.conv_in.weight)
    assert not torch.equal(first.reconstruction[0], model(given.flip(0), 1).reconstruction[2])


def test_the_pass_is_that_of_diffusers(model: VaeModel) -> None:
    given = from_pixels(images(2, 16))
    posterior = model.vae.encode(given).latent_dist
    out = model(given, 5)
    torch.testing.assert_close(out.kl, posterior.kl().mean())
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(out.reconstruction, model.vae.decode(posterior.mean + posterior.std * noise).sample)


def test_everything_learns(model: VaeModel) -> None:
    out = model(from_pixels(images(2, 16)), 0)
    (out.reconstruction.square().mean() + out.kl).backward()
    assert [name for name, parameter in model.trainable() if parameter.grad is None] == []
    assert len(model.trainable()) == len(list(model.vae.parameters()))


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_the_folder_is_diffusers(model: VaeModel, dtype: torch.dtype | None, tmp_path: Path) -> None:
    model.vae.to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path / "vae", dtype)
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["config.json", trainings.WEIGHTS]
    loaded = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert (loaded.config.latent_channels, loaded.config.scaling_factor) == (4, 1.0)
    for name, tensor in model.vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(dtype or torch.float32).float())
    assert model.vae.dtype == torch.float32


def test_its_files_are_for_all_who_may_read_the_folder(model: VaeModel, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    model.save_pretrained(tmp_path / "vae")
    modes = {path.stat().st_mode for path in (tmp_path / "vae").iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode}


def test_a_folder_does_not_tell_where_its_weights_lay(model: VaeModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "one")
    VaeModel(load_vae(tmp_path / "one")).save_pretrained(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_no_room_for_the_weights(model: VaeModel, tmp_path: Path) -> None:
    """A limit on the size of files, to which the system answers as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match=r"vae cannot be written \(File too large\)"):
            model.save_pretrained(tmp_path / "vae")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
