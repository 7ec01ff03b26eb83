"""The attention search: norms, its start, and rows searched a part at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coda_deploy.tokenizer import search
from coda_deploy.tokenizer.search import AttentionSearch, make_norm

pytestmark = pytest.mark.numeric


def test_norms() -> None:
    assert isinstance(make_norm("none", 4, 1e-5), nn.Identity)
    layer, rms = make_norm("layer", 4, 1e-4), make_norm("rms", 4, 1e-5)
    assert isinstance(layer, nn.LayerNorm)
    assert layer.bias is not None
    assert layer.eps == 1e-4
    assert isinstance(rms, nn.RMSNorm)
    assert rms.eps == 1e-5


def test_parts_of_the_rows_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = AttentionSearch(4, 8, "rms", 1e-5).double()
    codes, rows = torch.randn(20, 4).double(), torch.randn(37, 4).double()
    keys = attention.keys(codes)
    whole = attention.ids(rows, keys)
    monkeypatch.setattr(search, "ROWS_AT_ONCE", 5)
    assert torch.equal(attention.ids(rows, keys), whole)
    assert torch.equal(whole, attention.logits(rows, keys).argmax(1))


@pytest.mark.parametrize(("channels", "dim"), [(4, 32), (16, 32), (8, 8), (16, 4)])
def test_training_starts_with_the_codebook_as_values(channels: int, dim: int) -> None:
    torch.manual_seed(0)
    attention, codes = AttentionSearch(channels, dim, "rms", 1e-5), torch.randn(50, channels)
    torch.testing.assert_close(attention.values(codes), codes)
    torch.testing.assert_close(attention.keys(codes), attention.norm_q(attention.to_q(codes)))


def test_training_starts_close_to_a_nearest_neighbour_search() -> None:
    torch.manual_seed(0)
    attention = AttentionSearch(16, 32, "rms", 1e-5)
    codes = torch.randn(500, 16)
    rows = codes + 0.1 * torch.randn(500, 16)
    found = attention.ids(rows, attention.keys(codes))
    assert (found == torch.cdist(rows, codes).argmin(1)).float().mean() > 0.95


def test_first_of_equal_codes_wins() -> None:
    # Small integers, whose scores round nowhere: a product of matrices may round equal columns by where they stand.
    torch.manual_seed(0)
    attention = AttentionSearch(4, 8, "none", 1e-5).requires_grad_(False)
    for parameter in attention.parameters():
        parameter.copy_(torch.randint(-3, 4, parameter.shape))
    codes, rows = torch.randint(-3, 4, (6, 4)).float().repeat(3, 1), torch.randint(-3, 4, (100, 4)).float()
    found = attention.ids(rows, attention.keys(codes))
    assert int(found.max()) < 6
    assert len(found.unique()) > 1
