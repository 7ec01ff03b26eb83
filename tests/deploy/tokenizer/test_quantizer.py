"""The residual quantizer against the textbook: ids, losses and every gradient, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.quantizer import ResidualQuantizer
from tests import textbook
from tests.tiny_tokenizers import enliven

pytestmark = pytest.mark.numeric

SCALES = (1, 2, 3, 5, 8)
NORMS: tuple[NormType, ...] = ("none", "layer", "rms")


def quantizer(norm: NormType = "rms", seed: int = 0) -> ResidualQuantizer:
    made = ResidualQuantizer(40, 4, SCALES, 8, norm, 1e-5)
    enliven(made, seed)
    return made.double()


def latent(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
def test_forward_and_its_gradients_are_the_textbook_s(norm: NormType) -> None:
    ours, theirs = quantizer(norm), quantizer(norm)
    z_ours, z_theirs = latent().requires_grad_(), latent().requires_grad_()
    found, expected = ours(z_ours), textbook.quantize(theirs, z_theirs)
    assert torch.equal(found.ids, expected.ids.int())
    torch.testing.assert_close(found.latent, expected.quantized)
    torch.testing.assert_close(found.vq_loss, expected.vq_loss)
    torch.testing.assert_close(found.entropy_loss, expected.entropy_loss)

    toward = latent(seed=1)
    for out, losses in ((found.latent, found), (expected.quantized, expected)):
        ((out * toward).sum() + losses.vq_loss + 0.05 * losses.entropy_loss).backward()
    torch.testing.assert_close(z_ours.grad, z_theirs.grad)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert a.grad.abs().max() > 0, name
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("norm", NORMS)
def test_encode_finds_what_forward_finds(norm: NormType) -> None:
    q = quantizer(norm)
    ids = q.encode(latent())
    assert ids.dtype == torch.int32
    assert ids.shape == (2, 103)
    assert torch.equal(ids, q(latent()).ids)
    assert len(ids.unique()) >= 5, "a test where one code takes all proves little"


def test_embed_is_the_quantised_latent_of_forward() -> None:
    q = quantizer()
    out = q(latent())
    torch.testing.assert_close(q.embed(out.ids.long()), out.latent)


def test_a_prefix_embeds_the_first_scales_alone() -> None:
    q = quantizer()
    ids, total, start = q.encode(latent()).long(), torch.zeros(2, 4, 8, 8).double(), 0
    values = q.search.values(q.codebook)
    for side in SCALES:
        total = total + textbook.spread(values[ids[:, start : start + side * side].flatten()], side, total)
        start += side * side
        torch.testing.assert_close(q.embed(ids[:, :start]), total)


def test_encode_step_of_ones_own_ids_is_the_same() -> None:
    q = quantizer()
    ids = q.encode(latent())
    assert torch.equal(q.encode_step(latent(), ids), ids)


def test_encode_step_counts_a_flipped_id_once() -> None:
    q = quantizer()
    ids = q.encode(latent())
    flipped = ids.clone()
    flipped[0, 0] = (flipped[0, 0] + 1) % 40
    # A port that flipped the first id and went on rightly: its later ids answer what that id left.
    values = q.search.values(q.codebook)
    left = latent()[:1] - textbook.spread(values[flipped[0, :1].long()], 1, latent()[:1])
    rest = ResidualQuantizer(40, 4, SCALES[1:], 8, "rms", 1e-5).double()
    rest.load_state_dict(q.state_dict())
    flipped[0, 1:] = rest.encode(left)[0]
    assert int((flipped != ids).sum()) > 1, "the flip changes later scales"
    assert int((q.encode_step(latent(), flipped) != flipped).sum()) == 1


def test_rows_are_row_major_inside_a_scale() -> None:
    q = quantizer()
    grids = q.split(q.encode(latent()))
    assert [tuple(grid.shape) for grid in grids] == [(2, s, s) for s in SCALES]
    # At the last scale a position's id depends on the residual there alone.
    ids = q.encode(latent())
    step = q.encode_step(latent(), ids)
    changed = latent()
    changed[0, :, 6, 1] += 100
    other = q.encode_step(changed, ids)
    last = torch.nonzero((step != other)[0, -64:]).flatten().tolist()
    assert last == [6 * 8 + 1]


def test_num_scales() -> None:
    q = quantizer()
    assert [q.num_scales(n) for n in (1, 5, 14, 39, 103)] == [1, 2, 3, 4, 5]
    for tokens in (0, 2, 102, 104):
        with pytest.raises(ValueError, match=rf"{tokens} ids are not a whole number of scales.*\[1, 5, 14, 39, 103\]"):
            q.num_scales(tokens)
