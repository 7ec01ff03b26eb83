"""The unfolded tokenizer as the exporter's reference: numpy in and out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_deploy.tokenizer.model import CodaTokenizer
from coda_deploy.tokenizer.pixels import to_pixels


class TorchReference:
    """A `coda_export.Reference` over a `CodaTokenizer`, float32, on the CPU."""

    def __init__(self, tokenizer: CodaTokenizer) -> None:
        self._tokenizer = tokenizer

    def latent(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 [B, H, W, 3] into the continuous latent, float32 [B, C, h, w]."""
        with torch.no_grad():
            return self._tokenizer.encode_latent(as_tensor(images)).numpy()

    def encode(self, latent: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn a latent into ids int32 [B, L], free-running."""
        return self._tokenizer.quantizer.encode(as_tensor(latent)).numpy()

    def step(self, latent: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Find each scale's ids in the residual that ``ids``' own earlier scales leave: int32 [B, L]."""
        return self._tokenizer.quantizer.encode_step(as_tensor(latent), as_tensor(ids)).numpy()

    def decode(self, ids: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Turn ids into uint8 [B, H, W, 3]."""
        return to_pixels(self._tokenizer.decode(as_tensor(ids))).numpy()


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """Return an array as a tensor of the same memory, where it may be written."""
    # A copy where the array is read-only, which PyTorch warns about.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
