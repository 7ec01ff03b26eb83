"""What is compared: CODA, CODA with one part taken out, and a VQ autoencoder trained jointly from scratch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.tokenizer.choice import choose
from coda_deploy.tokenizer.losses import ENTROPY_TEMPERATURE
from coda_deploy.tokenizer.search import Found
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import TrainConfig


class NearestSearch(nn.Module):
    """``id = argmin |t - e|^2``, ``value = e``, straight-through: what CODA's attention replaces.

    The codebook's gradient is that of the first term of ``vq_loss``, at weight 1 as in VQ-VAE (arXiv 1711.00937).
    """

    def keys(self, codebook: Tensor) -> Tensor:
        """Return [V, C + 1]: with queries (2 t, 1), the product is 2 t.e - |e|^2, greatest where |t - e|^2 is least."""
        return torch.cat([codebook, -codebook.square().sum(1, keepdim=True)], 1)

    def values(self, codebook: Tensor) -> Tensor:
        """Return the codebook itself."""
        return codebook

    def ids(self, latent: Tensor, keys: Tensor) -> Tensor:
        """Find the nearest code of each row of ``latent`` [N, C]: int64 [N]."""
        return torch.cat([(_queries(rows) @ keys.T).argmax(-1) for rows in latent.split(512)])

    def forward(self, latent: Tensor, keys: Tensor, values: Tensor) -> Found:
        """Do as `AttentionSearch.forward`; the entropy is that of softmax(-|t - e|^2 / temperature)."""
        queries = _queries(latent)
        ids, _, entropy, mean = choose(queries, keys, values, 1.0, ENTROPY_TEMPERATURE)
        hard = F.embedding(ids, values)
        return Found(ids, hard + (latent - latent.detach()), hard, entropy, mean)


def _queries(latent: Tensor) -> Tensor:
    return torch.cat([2 * latent, latent.new_ones(len(latent), 1)], 1)


class JointTokenizer(CodaTokenizer):
    """Encoder, decoder and codes all learn from scratch: a plain VQ autoencoder."""

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return everything."""
        return list(self.named_parameters())


@dataclass(frozen=True)
class Variant:
    """One training. ``steps`` counts in CODA's steps, so that 6 is the paper's budget of its rival."""

    name: str
    label: str
    settings: tuple[str, ...] = ()
    nearest: bool = False
    scratch: bool = False
    warm: bool = False
    steps: float = 1.0
    lr: float = 5e-4
    # The paper's 5e-4 is for a hundred times as many steps: over so few, codes would hardly leave where they start.
    lr_quantizer: float = 1e-2


# The weights of the sample's configuration: after the warm-up the image leads.
OURS = ("loss.l2=4.0", "loss.vq=0.5", "loss.entropy=0.01")

VARIANTS = (
    Variant("coda", "CODA"),
    Variant("warm", "CODA after a latent warm-up, same time", OURS, warm=True, lr=5e-4, lr_quantizer=1e-4),
    Variant(
        "warm_no_lora",
        "CODA after a latent warm-up, without LoRA",
        (*OURS, "tokenizer.lora_rank=0"),
        warm=True,
        lr_quantizer=1e-4,
    ),
    Variant("nearest", "without attention (nearest neighbour)", nearest=True),
    Variant("single", "without residual scales"),
    Variant("no_lora", "without LoRA", ("tokenizer.lora_rank=0",)),
    Variant("no_entropy", "without entropy", ("loss.entropy=0.0",)),
    Variant(
        "vq",
        "plain VQ from scratch, 6 times the steps",
        ("loss.entropy=0.0",),
        nearest=True,
        scratch=True,
        steps=6.0,
        lr=2e-3,
        lr_quantizer=2e-3,
    ),
)


def build(variant: Variant, config: TrainConfig, vae: Path) -> CodaTokenizer:
    """Build the variant's tokenizer before its first step."""
    tokenizer = build_tokenizer(config, vae)
    if variant.scratch:
        torch.manual_seed(config.optim.seed)
        settings = dataclasses.replace(tokenizer.config, lora=None)
        joint = JointTokenizer(settings, AutoencoderKL(**settings.vae))
        joint.requires_grad_(True)
        tokenizer = joint
    if variant.nearest:
        tokenizer.quantizer.search = NearestSearch()  # type: ignore[assignment]
    return tokenizer
