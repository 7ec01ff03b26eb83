"""Attention with one head over all positions of an image, in a form that every exporter takes."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix values [B, C, h, w] by the agreement of keys with queries; the scores and their sums are float32."""
    rows = [part.flatten(2).transpose(1, 2)[:, None].float() for part in (query, key, value)]
    mixed = nn.functional.scaled_dot_product_attention(rows[0], rows[1], rows[2])[:, 0]
    spread: Tensor = mixed.transpose(1, 2).unflatten(2, value.shape[2:])
    return spread.to(value.dtype)


class PlainAttention(nn.Module):
    """A block with the layers ``norm``, ``to_q``, ``to_k``, ``to_v`` and ``proj``, added to what it was given."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm, self.proj = block.norm, block.proj
        self.to_q, self.to_k, self.to_v = block.to_q, block.to_k, block.to_v

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [B, C, h, w]."""
        given = self.norm(x)
        return cast(Tensor, x + self.proj(attend(self.to_q(given), self.to_k(given), self.to_v(given))))


def replace_attention(root: nn.Module, kind: type[nn.Module]) -> None:
    """Replace every block of a class by a `PlainAttention` of its layers, in place."""
    for name, module in list(root.named_modules()):
        if type(module) is kind:
            parent, _, leaf = name.rpartition(".")
            setattr(root.get_submodule(parent), leaf, PlainAttention(module))
