"""The outputs of the tokenizer's own modules, by path: what `coda verify --layers --tokenizer` compares graphs with."""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coda_deploy.reference import as_tensor
from coda_deploy.tokenizer.model import CodaTokenizer, a_channel
from coda_deploy.tokenizer.pixels import from_pixels, to_pixels
from coda_export.layers import EMBEDDED, PIXELS, Values
from coda_runtime.format.parts import ENCODER, IMAGE


class TorchActivations:
    """`coda_export.layers.Activations` of the unfolded tokenizer, LoRA and all, in float32 on the CPU."""

    def __init__(self, tokenizer: CodaTokenizer, part: str, given: NDArray[Any]) -> None:
        """``given`` is what the part takes: uint8 [1, H, W, 3] or ids, int32 [1, L]."""
        self._tokenizer, self._is_encoder, self._given = tokenizer, part == ENCODER.name, as_tensor(given)
        self._modules = dict(cast(nn.Module, tokenizer.vae).named_modules())

    @property
    def paths(self) -> Container[str]:
        """The modules of the VAE, the first and the last tensor of the part."""
        first = {EMBEDDED} if self._tokenizer.family.latent_path else set()
        ends = {PIXELS} if self._is_encoder else {*first, IMAGE.name}
        return self._modules.keys() | ends

    @torch.no_grad()
    def values(self, paths: Sequence[str]) -> Values:
        """Run the part once, and return these modules' outputs."""
        found: dict[str, Tensor] = {}

        def keep(path: str) -> Any:
            def hook(module: nn.Module, given: Any, out: Tensor) -> None:
                found[path] = out

            return hook

        with ExitStack() as hooks:
            for path in paths:
                if path in self._modules:
                    hooks.enter_context(self._modules[path].register_forward_hook(keep(path)))
            found |= self._encode() if self._is_encoder else self._decode()
        return {path: _flat(found[path]) for path in paths}

    def _encode(self) -> dict[str, Tensor]:
        latent = self._tokenizer.encode_latent(self._given)
        # Where folding puts the latent's scale and shift into a module, its output is the latent.
        path = self._tokenizer.family.latent_path
        return {PIXELS: from_pixels(self._given), **({} if path is None else {path: latent})}

    def _decode(self) -> dict[str, Tensor]:
        config, latent = self._tokenizer.config, self._tokenizer.quantizer.embed(self._given)
        image = to_pixels(self._tokenizer.decode_latent(latent))
        # Where there is no convolution to fold the shift into, the graph adds it first.
        folded = getattr(self._tokenizer.vae, "post_quant_conv", None) is not None
        shift = a_channel(config.latent_scale, latent) * a_channel(config.latent_shift, latent)
        return {EMBEDDED: latent if folded else latent + shift, IMAGE.name: image}


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.to(torch.float32).contiguous().reshape(-1).numpy()
