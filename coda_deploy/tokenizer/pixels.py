"""Pixels as images are stored, uint8 channels last, to and from what the networks take."""

from __future__ import annotations

import torch
from torch import Tensor


def from_pixels(images: Tensor) -> Tensor:
    """Turn images uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [-1, 1]: x / 127.5 - 1.

    On the same device, and as a view's memory lies: channels last where ``images`` is contiguous.
    """
    # In this order alone: it decides the tokens, to the last bit.
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Turn decoded float images [B, 3, H, W], about [-1, 1], into uint8 [B, H, W, 3]: clip(round(127.5 x + 127.5))."""
    return images.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
