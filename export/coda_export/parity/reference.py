"""What an exported tokenizer is compared with: the unfolded float32 tokenizer, as the exporter sees it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Reference(Protocol):
    """The unfolded float32 tokenizer. Images are uint8 [B, H, W, 3], ids int32 [B, L], latents float32 [B, C, h, w]."""

    def latent(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The continuous latent the quantizer sees."""
        ...

    def encode(self, latent: NDArray[np.float32]) -> NDArray[np.int32]:
        """The reference's own ids."""
        ...

    def step(self, latent: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """At each scale, the ids the reference finds in the residual that ``ids``' own earlier scales leave."""
        ...

    def decode(self, ids: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Decoded pixels: clip(round(127.5 x + 127.5))."""
        ...
