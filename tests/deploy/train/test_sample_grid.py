"""Sample grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from coda_deploy.tokenizer.pixels import to_pixels
from coda_deploy.train.sample_grid import GAP, grid, write_grid
from tests.tiny_tokenizers import images, make


def test_the_pixels_of_a_grid() -> None:
    rows = [np.arange(2 * 5 * 6 * 3, dtype=np.uint8).reshape(2, 5, 6, 3), np.full((2, 5, 6, 3), 7, np.uint8)]
    page = grid(rows)
    assert page.shape == (2 * 5 + 3 * GAP, 2 * 6 + 3 * GAP, 3)
    covered = np.zeros(page.shape[:2], bool)
    for r in range(2):
        for c in range(2):
            y, x = GAP + r * (5 + GAP), GAP + c * (6 + GAP)
            assert np.array_equal(page[y : y + 5, x : x + 6], rows[r][c])
            covered[y : y + 5, x : x + 6] = True
    assert (page[~covered] == 255).all()


def test_images_above_what_comes_back(tmp_path: Path) -> None:
    tokenizer, given = make(), images(3)
    path = tmp_path / "new" / "grid.png"
    write_grid(path, tokenizer, given)
    with Image.open(path) as image:
        page, kind = np.asarray(image), image.format
    back = to_pixels(tokenizer.decode(tokenizer.encode(given))).numpy()
    assert np.array_equal(page, grid([given.numpy(), back]))
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]
    assert kind == "PNG"


def test_the_training_goes_on_as_it_was(tmp_path: Path) -> None:
    tokenizer = make().train()
    write_grid(tmp_path / "grid.png", tokenizer, images(1))
    assert tokenizer.training
    assert all(parameter.grad is None for parameter in tokenizer.parameters())
