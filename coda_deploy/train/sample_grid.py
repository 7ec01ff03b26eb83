"""Sample grids: how a few training images come back, as the training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from coda_deploy.tokenizer.pixels import to_pixels
from coda_deploy.train.learner import Learner
from coda_runtime.io.atomic_files import staged_file

GAP = 4


@torch.no_grad()
def write_grid(path: Path, model: Learner, images: Tensor) -> None:
    """Write a PNG: ``images`` (uint8 [B, H, W, 3]) above, their reconstructions, in float32, below."""
    back = to_pixels(model.decode(model.encode(images))).cpu().numpy()
    with staged_file(path) as file:
        Image.fromarray(grid([images.cpu().numpy(), back])).save(file, format="PNG")


def grid(rows: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay out rows of images, each uint8 [B, H, W, 3], on white: uint8 [h, w, 3]."""
    count, height, width = rows[0].shape[:3]
    page = np.full((len(rows) * (height + GAP) + GAP, count * (width + GAP) + GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            y, x = GAP + r * (height + GAP), GAP + c * (width + GAP)
            page[y : y + height, x : x + width] = image
    return page
