"""The loss on what the first scales alone decode to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from coda_deploy import CodaTokenizer
from coda_deploy.tokenizer.model import PREFIX_STRIDE
from coda_deploy.train.prefix import draw_prefix, prefix_loss
from coda_deploy.train.trainer import train
from tests.deploy.train import runs
from tests.tiny_tokenizers import images

_one_thread = runs.one_thread_each_module
pytestmark = pytest.mark.numeric


def test_only_coarse_scales_are_drawn_and_all_of_them() -> None:
    scales = [(side, side) for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)]
    assert {draw_prefix(scales, seed) for seed in range(200)} == set(range(1, 8))  # up to side 8 of 16
    assert draw_prefix([(4, 4)], 0) == 1  # one scale is its own prefix
    assert draw_prefix(scales, 5) == draw_prefix(scales, 5)


def test_a_scale_is_coarse_along_both_sides() -> None:
    scales = [(1, 2), (2, 4), (3, 4), (4, 8)]  # 3 of 4 rows are more than half
    assert {draw_prefix(scales, seed) for seed in range(50)} == {1, 2}


def test_one_value_is_compared_with_the_images_mean() -> None:
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    flat = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    assert prefix_loss(flat, pixels, (1, 1)).item() == pytest.approx(0.0, abs=1e-12)
    assert prefix_loss(flat + 0.5, pixels, (1, 1)).item() == pytest.approx(0.25)


def test_as_many_values_as_pixels_are_the_image_itself() -> None:
    pixels, decoded = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(prefix_loss(decoded, pixels, (16, 16)), F.mse_loss(decoded, pixels))


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_the_tokenizer_decodes_what_the_first_scales_hold(scales: int, tmp_path: Path) -> None:
    tokenizer = CodaTokenizer.from_vae(
        runs.make_vae(), image_size=runs.SIZE, vocab_size=32, scales=(1, 2, 4, 8), attention_dim=8
    )
    pixels = images(5, runs.SIZE).permute(0, 3, 1, 2).float() / 127.5 - 1
    out = tokenizer(pixels, scales)
    held = sum(side * side for side in (1, 2, 4, 8)[:scales])
    assert out.prefix is not None
    assert len(out.prefix) == 2  # images 0 and 4
    torch.testing.assert_close(
        out.prefix.detach(), tokenizer.decode(out.ids[::PREFIX_STRIDE, :held]), rtol=1e-4, atol=1e-5
    )
    out.prefix.mean().backward()
    assert tokenizer.quantizer.codebook.grad is not None


def test_nobody_pays_for_a_prefix_that_was_not_asked_for() -> None:
    tokenizer = CodaTokenizer.from_vae(
        runs.make_vae(), image_size=runs.SIZE, vocab_size=32, scales=(1, 2, 4, 8), attention_dim=8
    )
    assert tokenizer(images(2, runs.SIZE)).prefix is None


def test_it_draws_a_short_prefix_to_the_images_colours(workspace: runs.Workspace, tmp_path: Path) -> None:
    errors = []
    for weight in (0.0, 10.0):
        config = runs.config(optim={"steps": 60}, loss={"prefix": weight}, save={"every": 60, "log": 20})
        train(config, workspace.photos, tmp_path / str(weight), vae=workspace.vae)
        logged = runs.log(tmp_path / str(weight))
        assert all(("prefix" in line) == bool(weight) for line in logged)
        tokenizer = CodaTokenizer.from_pretrained(tmp_path / str(weight))
        pixels = images(8, runs.SIZE).permute(0, 3, 1, 2).float() / 127.5 - 1
        errors.append(prefix_loss(tokenizer.decode(tokenizer.encode(pixels)[:, :1]), pixels, (1, 1)).item())
    assert errors[1] < errors[0]
