"""What a port is compared with: the unfolded float32 tokenizer, itself or what it left in the bundle."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Reference(Protocol):
    """The unfolded float32 tokenizer. Images are uint8 [B,H,W,3], ids int32 [B,L], latents float32 [B,C,h,w]."""

    def latent(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the continuous latent that the quantizer sees."""
        ...

    def encode(self, latent: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Return the reference's own ids."""
        ...

    def step(self, latent: npt.NDArray[np.float32], ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return, at each scale, the ids the reference finds in the residual that `ids`' own earlier scales leave."""
        ...

    def decode(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        """Return the decoded pixels: clip(round(127.5 x + 127.5))."""
        ...
