"""LoRA on the VAE's convolutions: which, doing what, and merged."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coda_deploy import ConfigError, LoraConfig
from coda_deploy.families import FAMILIES
from coda_deploy.tokenizer.lora import add_lora, branch, lora_layers, merge_lora, target_names
from tests.tiny_tokenizers import LORA, VAES, enliven, make_vae

pytestmark = pytest.mark.numeric
KL = FAMILIES["AutoencoderKL"]


def test_targets_lie_in_encoder_and_decoder() -> None:
    names = target_names(make_vae("sd"), LORA, KL)
    assert all(name.startswith(("encoder.", "decoder.")) for name in names)
    assert all("conv1" in name or "conv2" in name for name in names)
    # One ResNet block a level and two in the middle; the decoder has one more a level. Two convolutions each.
    assert sum(name.startswith("encoder.") for name in names) == 2 * (3 + 2)
    assert sum(name.startswith("decoder.") for name in names) == 2 * (3 * 2 + 2)


def test_resampling_convolutions_as_in_mar() -> None:
    names = target_names(make_vae("mar"), LoraConfig(2, ("upsample", "downsample")), KL)
    assert sum("downsamplers" in name for name in names) == 2
    assert sum("upsamplers" in name for name in names) == 2
    assert len(names) == 4


def test_quant_convolutions_are_never_wrapped() -> None:
    assert "quant_conv" in dict(make_vae("sd").named_modules())
    assert not any("quant_conv" in name for name in target_names(make_vae("sd"), LoraConfig(2, ("conv",)), KL))


def test_no_target_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"\['linear'\] match no Conv2d"):
        add_lora(make_vae("sd"), LoraConfig(2, ("linear",)), KL)


def test_a_wrapped_convolution_is_conv_plus_up_of_down() -> None:
    vae = make_vae("mar")
    add_lora(vae, LoraConfig(3, ("conv1", "downsample")), KL)
    enliven(vae)
    for name, layer in lora_layers(vae).items():
        conv = layer.get_base_layer()
        down, up = branch(layer)
        assert tuple(up.shape[1:]) == (3, 1, 1), name
        assert down.shape[0] == 3, name
        x = torch.randn(1, conv.in_channels, 6, 6)
        low = F.conv2d(F.conv2d(x, down, None, conv.stride, conv.padding), up)
        torch.testing.assert_close(layer(x), conv(x) + low, msg=name)


@pytest.mark.parametrize("family", VAES)
def test_merged_convolutions_compute_the_same(family: str) -> None:
    vae = make_vae(family)
    add_lora(vae, LoraConfig(2, ("conv1", "conv2", "upsample", "downsample")), KL)
    enliven(vae)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        mean = vae.encode(images).latent_dist.mode()
        pixels = vae.decode(mean).sample
        merge_lora(vae)
        torch.testing.assert_close(vae.encode(images).latent_dist.mode(), mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(vae.decode(mean).sample, pixels, atol=1e-4, rtol=1e-4)
    assert not lora_layers(vae)
    assert not any("lora" in name for name, _ in vae.named_parameters())
    assert sum(type(module) is nn.Conv2d for module in vae.modules()) == sum(
        type(module) is nn.Conv2d for module in make_vae(family).modules()
    )
