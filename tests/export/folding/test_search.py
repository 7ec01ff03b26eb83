"""argmax norm_q(to_q(t)) . K  ==  argmax features(t) . A, for every norm and any weights."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coda_deploy.tokenizer.config import NormType
from coda_export.folding import SearchWeights, fold_search
from tests.export.searches import TIE, random_search, shortfall, weights_of

pytestmark = pytest.mark.numeric

NORMS = get_args(NormType)


@given(
    norm=st.sampled_from(NORMS),
    channels=st.integers(1, 6),
    dim=st.integers(2, 12),  # a layer norm of one number is always zero
    bias=st.sampled_from([0.0, 0.3, 5.0, 50.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_folded_ids_are_the_unfolded_ones(norm: NormType, channels: int, dim: int, bias: float, seed: int) -> None:
    search = random_search(norm, channels, dim, bias, seed)
    generator = torch.Generator().manual_seed(seed)
    codes, rows = torch.randn(50, channels, generator=generator), torch.randn(64, channels, generator=generator)
    ids = fold_search(weights_of(search, codes)).ids(rows)
    assert float(shortfall(search, codes, rows, ids).max()) < TIE


@pytest.mark.parametrize("norm", NORMS)
def test_the_comparison_can_fail(norm: NormType) -> None:
    search = random_search(norm)
    codes, rows = torch.randn(50, 4), torch.randn(64, 4)
    ids = fold_search(weights_of(search, codes)).ids(rows)
    assert float(shortfall(search, codes, rows, (ids + 1) % 50).max()) > TIE


def test_a_layer_norm_s_bias_is_not_lost() -> None:
    """With a large bias, dropping its term would change most ids."""
    search = random_search("layer", bias=50.0)
    codes, rows = torch.randn(50, 4), torch.randn(200, 4)
    folded = fold_search(weights_of(search, codes))
    assert folded.spread is not None
    assert folded.table.shape == (50, 6)
    without = (folded.features(rows)[:, :-1] @ folded.table[:, :-1].T).argmax(1)
    assert (without != folded.ids(rows)).float().mean() > 0.2


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_other_norms_need_one_feature_more_than_channels(norm: NormType) -> None:
    folded = fold_search(weights_of(random_search(norm), torch.randn(10, 4)))
    assert folded.table.shape == (10, 5)
    assert folded.spread is None
    assert folded.table.dtype == folded.values.dtype == torch.float32


def test_a_query_projection_without_bias() -> None:
    search = random_search("rms")
    codes, rows = torch.randn(50, 4), torch.randn(64, 4)
    plain = nn.Linear(4, 8, bias=False)
    plain.weight = search.to_q.weight
    search.to_q.bias.zero_()
    weights = weights_of(search, codes)
    ids = fold_search(SearchWeights(plain, weights.norm_q, weights.keys, weights.values)).ids(rows)
    assert torch.equal(ids, fold_search(weights).ids(rows))


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    folded = fold_search(weights_of(random_search("rms"), torch.randn(50, 4)))
    rows = torch.randn(64, 4)
    expected = (folded.features(rows).double() @ folded.table.double().T).argmax(1)
    assert torch.equal(folded.ids(rows, chunk), expected)


@pytest.mark.parametrize("chunk", [4, 6, 8192])
def test_the_first_of_equal_codes_wins(chunk: int) -> None:
    codes = torch.randn(6, 4).repeat(5, 1)
    ids = fold_search(weights_of(random_search("rms", bias=0.3), codes)).ids(torch.randn(200, 4), chunk)
    assert int(ids.max()) < 6
    assert len(ids.unique()) > 1


def test_nothing_passed_in_is_changed() -> None:
    search = random_search("layer")
    weights = weights_of(search, torch.randn(10, 4))
    before = [tensor.clone() for tensor in (*search.state_dict().values(), weights.keys, weights.values)]
    fold_search(weights).table.zero_()
    after = [*search.state_dict().values(), weights.keys, weights.values]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_an_unknown_norm_is_rejected() -> None:
    weights = weights_of(random_search("none"), torch.randn(10, 4))
    with pytest.raises(TypeError, match="cannot fold a BatchNorm1d on the queries: expected Identity, LayerNorm"):
        fold_search(SearchWeights(weights.to_q, nn.BatchNorm1d(8), weights.keys, weights.values))
