"""DINO ViT-S/16 (arXiv 2104.14294) as a frozen reader of images, through timm."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy.perception.weights import find_weights, freeze
from coda_deploy.tokenizer.storage import check_weights, read_state
from coda_runtime.errors import InputError, MissingDependencyError

_MODEL = "vit_small_patch16_224.dino"
_FILE = "dino_deitsmall16_pretrain.pth"
_HUB = (f"timm/{_MODEL}", "model.safetensors")
_URL = f"https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/{_FILE}"

SIDE = 224
"""The side, in pixels, of what the network sees."""
CHANNELS = 384
BLOCKS = (2, 5, 8, 11)
"""The blocks, counted from 0, whose outputs are read."""
LEVELS = len(BLOCKS) + 1


class DinoFeatures(nn.Module):
    """Feature maps of images at five depths; frozen, always in evaluation, and absent from state dicts.

    The GELU is the exact one that DINO was trained with; CODA's reference puts the tanh approximation in its place.
    The reference also zeroes the bias of the keys, which is left as it is here: it adds the same number to all of a
    query's logits, so that the softmax does not change.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | os.PathLike[str] | None = None, *, option: str = "dino_weights") -> None:
        """Build the network and load its weights.

        Args:
            weights: DINO's state dict for ViT-S/16; None looks in the caches and downloads it.
            option: how the user names ``weights``, for messages.

        Raises:
            MissingDependencyError: timm or torchvision is not installed.
            WeightsError: the weights are missing, damaged, or another network's.
        """
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise MissingDependencyError(
                "the discriminator needs the packages timm and torchvision", "timm", "torchvision", extra="train"
            ) from error
        path = find_weights(weights, what="DINO ViT-S/16", file=_FILE, hub=_HUB, url=_URL, option=option)
        vit = timm.create_model(_MODEL, pretrained=False)
        state = read_state(path)
        check_weights(state, vit.state_dict(), str(path))
        vit.load_state_dict(state)
        freeze(vit)
        self.vit = vit
        # ImageNet's, per channel.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        super().train(False)

    def train(self, mode: bool = True) -> DinoFeatures:
        """Change nothing: it is always in evaluation mode."""
        return self

    def forward(self, images: Tensor, top_left: tuple[int, int] | None = None) -> list[Tensor]:
        """Turn images float [B, 3, H, W] in [-1, 1] into five maps float32 [B, 384, 196], patches row-major.

        They are the tokens before the first block and after blocks 2, 5, 8 and 11; the class token is added to each
        patch's. The 224 x 224 pixels that the network sees are cut out at ``top_left`` (row, column), or with None
        the whole image resized: by area where both sides are larger, otherwise bicubic.

        Raises ``InputError`` when the cut does not lie inside the image.
        """
        vit = self.vit
        seen = ((_fit(images.float(), top_left) + 1) / 2 - self.mean) / self.std
        # In float32 also under autocast: what the blocks add to is summed up over all of them.
        tokens = vit.patch_embed(seen).float()
        x = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], 1) + vit.pos_embed
        maps = [_readout(x)]
        for index, block in enumerate(vit.blocks):
            x = block(x)
            if index in BLOCKS:
                maps.append(_readout(x))
        return maps


def _fit(images: Tensor, top_left: tuple[int, int] | None) -> Tensor:
    height, width = images.shape[-2:]
    if top_left is not None:
        top, left = top_left
        if not (0 <= top <= height - SIDE and 0 <= left <= width - SIDE):
            raise InputError(
                f"a cut of {SIDE} x {SIDE} at row {top}, column {left} does not lie inside images of {height} x "
                f"{width}; give None, which resizes them"
            )
        return images[..., top : top + SIDE, left : left + SIDE]
    if (height, width) == (SIDE, SIDE):
        return images
    if min(height, width) >= SIDE:
        return F.interpolate(images, size=(SIDE, SIDE), mode="area")
    return F.interpolate(images, size=(SIDE, SIDE), mode="bicubic", align_corners=False)


def _readout(x: Tensor) -> Tensor:
    return (x[:, 1:] + x[:, :1]).float().transpose(1, 2)
