"""Each change on cases that can be worked out by hand, the blur against SciPy's, gradients by the adjoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from coda_deploy.train.augment import AugmentDraw, augment, draw


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(kind: str | None, *numbers: list[float]) -> AugmentDraw:
    """One kind of change (or none) with these numbers for each image; 0.5 changes no colour."""
    rows = [[0.5] * 7 for _ in numbers]
    first = {"translate": 0, "colour": 2, "cutout": 5, None: 0}[kind]
    for row, given_numbers in zip(rows, numbers, strict=True):
        row[first : first + len(given_numbers)] = given_numbers
    kinds: dict[str, Any] = {name: name == kind for name in ("translate", "colour", "cutout")}
    return AugmentDraw(**kinds, numbers=torch.tensor(rows))


def test_nothing_drawn_and_no_blur_leave_the_pixels() -> None:
    images = torch.randn(3, 3, 8, 12)
    assert torch.equal(augment(images, draw(generator(), 3, probability=0.0)), images)
    assert torch.equal(augment(images, only(None, [], [], []), 1e-3), images)


@pytest.mark.parametrize(
    ("numbers", "down", "right"),
    [([0.0, 0.0], -2, -4), ([0.999, 0.999], 2, 4), ([0.5, 0.5], 0, 0), ([0.0, 0.999], -2, 4), ([0.61, 0.6], 1, 1)],
)
def test_translation_moves_by_whole_pixels_and_uncovers_grey(numbers: list[float], down: int, right: int) -> None:
    images = torch.rand(1, 3, 16, 32) + 1
    found = augment(images, only("translate", numbers))
    expected = torch.zeros_like(images)
    for row in range(16):
        for column in range(32):
            if 0 <= row - down < 16 and 0 <= column - right < 32:
                expected[0, :, row, column] = images[0, :, row - down, column - right]
    assert torch.equal(found, expected)


def test_every_shift_up_to_an_eighth_is_as_likely() -> None:
    numbers = (torch.arange(1000) / 1000).tolist()
    images = torch.zeros(1000, 1, 24, 24)
    images[:, :, 12, 12] = 1
    found = augment(images, only("translate", *([number, number] for number in numbers)))
    rows = found.sum((1, 3)).argmax(1) - 12
    assert torch.bincount(rows + 3).tolist() == pytest.approx([1000 / 7] * 7, abs=1)


def test_brightness_saturation_and_contrast() -> None:
    image = torch.rand(1, 3, 6, 6) * 2 - 1
    pixel, mean = image.mean(1, keepdim=True), image.mean()
    for numbers, expected in [
        ([0.5, 0.5, 0.5], image),
        ([0.9, 0.5, 0.5], image + 0.4),
        ([0.5, 0.0, 0.5], pixel.expand_as(image)),
        ([0.5, 0.75, 0.5], pixel + 1.5 * (image - pixel)),
        ([0.5, 0.5, 0.0], mean + 0.5 * (image - mean)),
        ([0.5, 0.5, 0.9], mean + 1.4 * (image - mean)),
    ]:
        torch.testing.assert_close(augment(image, only("colour", numbers)), expected)


@pytest.mark.parametrize(
    ("numbers", "rows", "columns"),
    [
        ([0.5, 0.5], range(8, 12), range(12, 18)),
        ([0.0, 0.0], range(2), range(3)),  # its middle in the corner: the rest lies outside
        ([0.999, 0.999], range(18, 20), range(27, 30)),
    ],
)
def test_cutout_makes_one_grey_hole(numbers: list[float], rows: range, columns: range) -> None:
    images = torch.rand(1, 3, 20, 30) + 1
    expected = images.clone()
    expected[:, :, rows.start : rows.stop, columns.start : columns.stop] = 0
    assert torch.equal(augment(images, only("cutout", numbers)), expected)


@pytest.mark.parametrize(("blur", "sigma", "radius"), [(1.0, 4.0, 12), (0.3, 1.2, 3), (0.0834, 0.3336, 1)])
def test_blur_is_a_gaussian_with_reflected_edges(blur: float, sigma: float, radius: int) -> None:
    images = torch.rand(2, 3, 32, 40) * 2 - 1
    found = augment(images, only(None, [], []), blur)
    expected = gaussian_filter(images.double().numpy(), sigma, radius=radius, mode="mirror", axes=(2, 3))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


@given(side=st.integers(1, 6), blur=st.floats(0, 1))
def test_blur_of_tiny_images_keeps_a_constant(side: int, blur: float) -> None:
    images = torch.full((1, 3, side, side + 1), 0.7)
    torch.testing.assert_close(augment(images, only(None, []), blur), images)


@given(seed=st.integers(0, 99), world=st.sampled_from([1, 2, 3]), blur=st.sampled_from([0.0, 0.4]))
def test_processes_together_do_what_one_does(seed: int, world: int, blur: float) -> None:
    images = torch.rand(6, 3, 12, 16, generator=generator(seed))
    drawn = draw(generator(seed), 6, 0.7)
    parts = [augment(part, drawn.rows(rank, world), blur) for rank, part in enumerate(images.chunk(world))]
    assert torch.equal(torch.cat(parts), augment(images, drawn, blur))


def test_a_batch_that_does_not_fit_is_rejected() -> None:
    with pytest.raises(ValueError, match="6 images cannot be shared evenly by 4 processes"):
        draw(generator(), 6).rows(0, 4)
    with pytest.raises(ValueError, match="3 images, and numbers for 6"):
        augment(torch.zeros(3, 3, 8, 8), draw(generator(), 6))


def test_draws_follow_the_generator_alone_and_take_the_same_of_it() -> None:
    one, two = generator(1), generator(1)
    first, second = draw(one, 5, 0.3), draw(two, 5, 1.0)
    assert torch.equal(first.numbers, second.numbers)
    assert torch.equal(one.get_state(), two.get_state())
    assert replace(first, numbers=0) != replace(second, numbers=0)
    assert not torch.equal(draw(one, 5).numbers, first.numbers)
    draws = [draw(one, 1, 0.25) for _ in range(2000)]
    for kind in ("translate", "colour", "cutout"):
        assert sum(getattr(each, kind) for each in draws) / 2000 == pytest.approx(0.25, abs=0.04)


@given(seed=st.integers(0, 99), blur=st.sampled_from([0.0, 0.5]))
def test_gradients_are_the_adjoint(seed: int, blur: float) -> None:
    # The augmentation is affine in the images: <w, A(x + d) - A(x)> = <A'w, d>.
    x, d, w = torch.randn(3, 2, 3, 16, 16, generator=generator(seed)).double()
    drawn = draw(generator(seed), 2, 0.8)
    inputs = x.requires_grad_()
    found = augment(inputs, drawn, blur)
    (gradient,) = torch.autograd.grad((w * found).sum(), inputs)
    with torch.no_grad():
        forward = (w * (augment(x + d, drawn, blur) - found)).sum()
    assert float((gradient * d).sum()) == pytest.approx(float(forward), abs=1e-3)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_float32(dtype: torch.dtype) -> None:
    images: Tensor = (torch.rand(2, 3, 16, 16) * 2 - 1).to(dtype)
    drawn = draw(generator(), 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(images, drawn, 0.7)
    assert found.dtype == torch.float32
    assert torch.equal(found, augment(images.float(), drawn, 0.7))
