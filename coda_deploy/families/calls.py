"""The two methods of a user's module, each as a module that can be exported."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn


class Encode(nn.Module):
    """Calls ``vae.encode``."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W]."""
        return cast(Tensor, cast(Any, self.vae).encode(x))


class Decode(Encode):
    """Calls ``vae.decode``."""

    def forward(self, x: Tensor) -> Tensor:
        """Decode a latent [B, C, h, w]."""
        return cast(Tensor, cast(Any, self.vae).decode(x))
