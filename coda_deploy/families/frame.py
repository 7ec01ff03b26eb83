"""VAEs of video that also encode one frame, as networks of images.

Their convolutions are causal: the first frame sees zeros where earlier frames would be, so of a kernel's taps over time
the last one alone counts, and a 2D convolution with it computes the same. What changes the number of frames is not
reached by a first frame, and is left behind. Names stay those of the video VAE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from coda_deploy.families.attention import attend


class FrameNorm(nn.Module):
    """Each position's channels scaled to a root mean square of 1, times ``gamma`` [C, 1, 1]."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.scale = float(norm.scale)
        self.gamma = nn.Parameter(norm.gamma.detach().reshape(-1, 1, 1))
        self.bias = nn.Parameter(norm.bias.detach().reshape(-1, 1, 1)) if isinstance(norm.bias, Tensor) else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, h, w]."""
        scaled: Tensor = nn.functional.normalize(x, dim=1) * self.scale * self.gamma
        return scaled if self.bias is None else scaled + self.bias


class FrameResample(nn.Module):
    """Halves or doubles the sides."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.resample = block.resample

    def forward(self, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
        """Resample [B, C, h, w]; the other arguments are the video's."""
        return cast(Tensor, self.resample(x))


class FrameAttention(nn.Module):
    """Attention of every position to every other, with one head, added to what it was given."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm, self.to_qkv, self.proj = FrameNorm(block.norm), block.to_qkv, block.proj

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [B, C, h, w]."""
        return cast(Tensor, x + self.proj(attend(*self.to_qkv(self.norm(x)).chunk(3, dim=1))))


class FrameAverage(nn.Module):
    """Pixels of 2 x 2 and the frame before, zeros, into channels, averaged in groups: Wan 2.2's way down."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.times, self.sides, self.group = int(block.factor_t), int(block.factor_s), int(block.group_size)

    def forward(self, x: Tensor) -> Tensor:
        """Average [B, C, h, w]."""
        packed = nn.functional.pixel_unshuffle(x, self.sides) if self.sides > 1 else x
        frames = packed.unflatten(1, (x.shape[1], 1, self.sides**2))
        if self.times > 1:
            frames = torch.cat([torch.zeros_like(frames)] * (self.times - 1) + [frames], dim=2)
        averaged: Tensor = frames.flatten(1, 3).unflatten(1, (-1, self.group)).mean(2)
        return averaged


class FrameRepeat(nn.Module):
    """Channels repeated and taken apart into pixels of 2 x 2 of the last frame: Wan 2.2's way up."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.times, self.sides, self.repeats = int(block.factor_t), int(block.factor_s), int(block.repeats)

    def forward(self, x: Tensor, first_chunk: object = None) -> Tensor:
        """Repeat [B, C, h, w]; the other argument is the video's."""
        frames = x.repeat_interleave(self.repeats, dim=1).unflatten(1, (-1, self.times, self.sides**2))
        return nn.functional.pixel_shuffle(frames[:, :, -1].flatten(1, 2), self.sides)


class ToPatches(nn.Module):
    """Patches of pixels as channels, their columns before their rows: [B, C, H, W] -> [B, C p p, H / p, W / p]."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Pack."""
        grid = x.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # [B, C, h, row, w, column]
        packed: Tensor = grid.permute(0, 1, 5, 3, 2, 4).flatten(1, 3)
        return packed


class FromPatches(ToPatches):
    """The other way."""

    def forward(self, x: Tensor) -> Tensor:
        """Unpack."""
        grid = x.unflatten(1, (-1, self.patch, self.patch))  # [B, C, column, row, h, w]
        unpacked: Tensor = grid.permute(0, 1, 4, 3, 5, 2).flatten(4, 5).flatten(2, 3)
        return unpacked


def frame_convolution(conv: nn.Conv3d) -> nn.Conv2d:
    """Return what a causal convolution does to a first frame: its last tap over time."""
    across, down = cast(Any, conv)._padding[0], cast(Any, conv)._padding[2]
    made = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        cast(tuple[int, int], conv.kernel_size[1:]),
        cast(tuple[int, int], conv.stride[1:]),
        (down, across),
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    made.weight = nn.Parameter(conv.weight.detach()[:, :, -1].contiguous())
    if conv.bias is not None:
        made.bias = nn.Parameter(conv.bias.detach())
    return made


@dataclass(frozen=True)
class VideoBlocks:
    """The classes of a video VAE that have to be replaced; the last two are Wan 2.2's."""

    convolution: type[nn.Module]
    norm: type[nn.Module]
    resample: type[nn.Module]
    attention: type[nn.Module]
    average: type[nn.Module] | None = None
    repeat: type[nn.Module] | None = None


def to_frames(vae: nn.Module, blocks: VideoBlocks) -> None:
    """Turn a video VAE into one of images, in place; one that is so already stays as it is."""
    made: dict[type[nn.Module] | None, Callable[[Any], nn.Module]] = {
        blocks.norm: FrameNorm,
        blocks.resample: FrameResample,
        blocks.attention: FrameAttention,
        blocks.convolution: frame_convolution,
        blocks.average: FrameAverage,
        blocks.repeat: FrameRepeat,
    }
    for name, module in list(vae.named_modules()):
        make = made.get(type(module))
        if make is not None:
            parent, _, leaf = name.rpartition(".")
            try:
                setattr(vae.get_submodule(parent), leaf, make(module))
            except AttributeError:  # inside a block that has been replaced, which took along what it needs
                continue
