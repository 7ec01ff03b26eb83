"""Between stored pixels and what the networks take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coda_deploy.tokenizer.pixels import from_pixels, to_pixels

pytestmark = pytest.mark.numeric

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_pixels_become_floats() -> None:
    pixels = LEVELS.view(1, 2, 128, 1) ^ torch.tensor([0, 1, 2], dtype=torch.uint8)
    found = from_pixels(pixels)
    assert (found.dtype, found.shape) == (torch.float32, (1, 3, 2, 128))
    # numpy's float32, each operation rounded once: the tokens depend on the last bit.
    expected = pixels.numpy().transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert (found.min(), found.max()) == (-1, 1)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_there_and_back() -> None:
    pixels = LEVELS.view(1, 16, 16, 1).expand(1, 16, 16, 3)
    torch.testing.assert_close(to_pixels(from_pixels(pixels)), pixels, rtol=0, atol=0)


def test_pixels_are_rounded_and_clipped() -> None:
    levels = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, (100.4 - 127.5) / 127.5, (100.6 - 127.5) / 127.5])
    pixels = to_pixels(levels[None, None, None].expand(1, 3, 1, 7))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, 1, 7, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 100, 101]
