"""Names of this project's tensors -> names in the official checkpoints, and in LDM autoencoders.

FLUX's VAE is a diffusers ``AutoencoderKL`` there too; MAR's is an LDM autoencoder, whose decoder counts its levels
from the other end and whose attention is made of 1x1 convolutions. Both name LoRA's convolutions after diffusers'
old ``LoRACompatibleConv``.
"""

from __future__ import annotations

import re

from torch import Tensor

from coda_deploy.tokenizer.lora import ADAPTER

VAE_FILE = "vae_ema.pth"
QUANTIZER_FILE = "quantizer_ema.pth"
_MAR_LEVELS = 5

_LDM_RULES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.down.\1.block.\2."),
    (r"^encoder\.down_blocks\.(\d+)\.attentions\.(\d+)\.", r"encoder.down.\1.attn.\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.up\.(\d+)\.attentions\.(\d+)\.", r"decoder.up.\1.attn.\2."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
    (r"^(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"(\.attn(?:_1|\.\d+))\.group_norm\.", r"\1.norm."),
    (r"(\.attn(?:_1|\.\d+))\.to_([qkv])\.", r"\1.\2."),
    (r"(\.attn(?:_1|\.\d+))\.to_out\.0\.", r"\1.proj_out."),
)


def ldm_name(name: str, levels: int) -> str:
    """Return what LDM calls a tensor of an ``AutoencoderKL`` of so many levels."""
    level = re.match(r"^decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0|attentions\.(\d+))\.", name)
    if level:
        block = f"block.{level[3]}" if level[3] else f"attentions.{level[4]}" if level[4] else "upsample"
        name = f"decoder.up.{levels - 1 - int(level[1])}.{block}.{name[level.end() :]}"
    for pattern, replacement in _LDM_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def official_key(key: str, ldm: bool) -> tuple[str, str]:
    """Return, for a key of the tokenizer's state dict, the official file it is stored in, and its key there.

    ``ldm``: the VAE is named as in MAR's repository rather than as in diffusers.
    """
    if key.startswith("quantizer."):
        name = key.removeprefix("quantizer.")
        return QUANTIZER_FILE, "codebooks.weight" if name == "codebook" else re.sub(r"^search\.", "attn.", name)
    name = key.removeprefix("vae.").replace(".base_layer.", ".")
    name = name.replace(f".lora_A.{ADAPTER}.", ".lora_layer.down.").replace(f".lora_B.{ADAPTER}.", ".lora_layer.up.")
    return VAE_FILE, ldm_name(name, _MAR_LEVELS) if ldm else name


def as_ldm(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor in the shape that LDM's files have: their attention's projections are 1x1 convolutions."""
    projection = re.search(r"\.attn(?:_1|\.\d+)\.(?:[qkv]|proj_out)\.weight$", name)
    return tensor[:, :, None, None] if projection and tensor.ndim == 2 else tensor
