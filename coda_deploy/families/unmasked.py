"""AsymmetricAutoencoderKL's decoder without what it does to a mask."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn


class UnmaskedDecoder(nn.Module):
    """The decoder's own layers under their own names, in the order in which they run where no mask is given."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.conv_in, self.mid_block, self.up_blocks = decoder.conv_in, decoder.mid_block, decoder.up_blocks
        self.conv_norm_out, self.conv_act, self.conv_out = decoder.conv_norm_out, decoder.conv_act, decoder.conv_out

    def forward(self, z: Tensor, image: None = None, mask: None = None) -> Tensor:
        """Decode [B, C, h, w]; the other arguments are those of the decoder that this was."""
        hidden = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            hidden = block(hidden)
        return cast(Tensor, self.conv_out(self.conv_act(self.conv_norm_out(hidden))))
