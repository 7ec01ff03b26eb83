"""A VAE as training sees it: a pass through a posterior drawn from a seed, and a diffusers folder at the end."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save
from torch import Tensor, nn

from coda_deploy import distributed
from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.pixels import from_pixels
from coda_deploy.tokenizer.vae import CONFIG_NAME, load_kl
from coda_deploy.train.vae.config import VaeTrainConfig
from coda_runtime.io.atomic_files import staged_folder


class VaeOutput(NamedTuple):
    """Decoded images [B, 3, H, W], and the posterior's divergence from a normal distribution, a scalar."""

    reconstruction: Tensor
    kl: Tensor


class VaeModel(nn.Module):
    """A diffusers ``AutoencoderKL``, all of which is trained."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(True)

    @classmethod
    def build(cls, config: VaeTrainConfig) -> VaeModel:
        """Draw the weights from the configuration's seed."""
        asked, levels = config.vae, len(config.vae.block_out_channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.optim.seed)
            vae = AutoencoderKL(
                in_channels=3,
                out_channels=3,
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                block_out_channels=asked.block_out_channels,
                layers_per_block=asked.layers_per_block,
                latent_channels=asked.latent_channels,
                norm_num_groups=asked.norm_num_groups,
                mid_block_add_attention=asked.mid_block_add_attention,
                use_quant_conv=False,
                use_post_quant_conv=False,
                sample_size=asked.image_size,
                scaling_factor=1.0,
                shift_factor=0.0,
            )
        return cls(vae)

    @classmethod
    def load_initial_weights(cls, where: str | os.PathLike[str], config: VaeTrainConfig) -> VaeModel:
        """Take the weights of a VAE, a folder or hub id. Raises ``ConfigError`` unless it is ``config``'s network."""
        vae = load_kl(where)
        for name in _NETWORK:
            asked, found = getattr(config.vae, name), vae.config[name]
            if asked != (tuple(found) if isinstance(asked, tuple) else found):
                raise ConfigError(
                    f"the VAE in {where} has {name} {found}, the configuration's vae.{name} is "
                    f"{list(asked) if isinstance(asked, tuple) else asked}: set it to the VAE's"
                )
        return cls(vae)

    def forward(self, images: Tensor, seed: int) -> VaeOutput:
        """Pass images float [B, 3, H, W] in [-1, 1] through a sample of their posterior, whose noise ``seed`` decides.

        The divergence is in nats, summed over the latent, averaged over the images.
        """
        posterior = self.vae.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        decoded: Tensor = self.vae.decode(mean + (0.5 * logvar).exp() * _noise(mean, seed)).sample
        return VaeOutput(decoded.float(), kl)

    def encode(self, images: Tensor) -> Tensor:
        """Turn images uint8 [B, H, W, 3] into the posterior's mode, float32 [B, C, h, w]."""
        latent: Tensor = self.vae.encode(from_pixels(images)).latent_dist.mode()
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Turn a latent [B, C, h, w] into images, float [B, 3, H, W] in about [-1, 1]."""
        images: Tensor = self.vae.decode(latent).sample
        return images

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return all parameters."""
        return list(self.named_parameters())

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write a diffusers folder, complete or not at all; ``dtype`` is float32 by default. Raises ``OutputError``."""
        kept = {
            name: tensor.detach().to(dtype or torch.float32).cpu().contiguous()
            for name, tensor in self.vae.state_dict().items()
        }
        settings = json.loads(self.vae.to_json_string())
        settings.pop("_name_or_path", None)  # where a resumed run's weights lay, on whichever machine that was
        with staged_folder(folder) as beside:
            # Not diffusers' save_pretrained: it leaves weights that only their owner may read, and hides the OSError.
            (beside / SAFETENSORS_WEIGHTS_NAME).write_bytes(save(kept, {"format": "pt"}))
            text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
            (beside / CONFIG_NAME).write_text(text, encoding="utf-8")


# Settings of a VaeSection that its network's weights depend on, under names that diffusers has too.
_NETWORK = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups", "mid_block_add_attention")


def _noise(like: Tensor, seed: int) -> Tensor:
    """Draw normal numbers for this process's images: those that one process would draw for all."""
    generator, world = torch.Generator().manual_seed(seed), distributed.world()
    drawn = torch.randn((world * len(like), *like.shape[1:]), generator=generator)
    return drawn.chunk(world)[distributed.rank()].to(like.device)
