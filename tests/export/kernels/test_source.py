"""Kernels and launch plan together, by Triton's interpreter, against the folded quantizer and the golden cases."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_deploy.tokenizer.config import NormType
from coda_export.folding import FoldedSearch
from coda_export.folding.modules import FoldedQuantizer
from coda_export.kernels.tables import search_tables
from coda_runtime.codes.quantizer import NumpyQuantizer
from tests.export.kernels.cases import golden_quantizer, make_spec, random_latent, random_quantizer
from tests.export.kernels.interpreter import LARGE, Interpreter
from tests.golden import Golden

pytestmark = pytest.mark.numeric


def agreement(quantizer: FoldedQuantizer, latent: np.ndarray, ids: np.ndarray) -> float:
    """Step agreement with the NumPy quantizer."""
    reference = NumpyQuantizer(quantizer.spec, search_tables(quantizer.search), quantizer.search.values.numpy())
    return float((reference.step(latent, ids) == ids).mean())


@pytest.mark.parametrize("golden", ["mar_v16384"], indirect=True)
def test_all_scales_of_a_golden_case(golden: Golden, interpreter: Interpreter) -> None:
    quantizer, latent = golden_quantizer(golden), golden.latent[:1]
    ids = interpreter.ids(quantizer, latent, LARGE)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, golden.ids[:1])


@pytest.mark.parametrize("golden", ["flux_v65536"], indirect=True)
def test_scales_of_the_other_golden_case(golden: Golden, interpreter: Interpreter) -> None:
    """Up to 9 x 9: the interpreter takes half a minute for all."""
    quantizer, latent = golden_quantizer(golden, 6), golden.latent[:1]
    ids = interpreter.ids(quantizer, latent, LARGE)
    assert agreement(quantizer, latent, ids) == 1
    np.testing.assert_array_equal(ids, golden.ids[:1, : ids.shape[1]])


@pytest.mark.parametrize(("norm", "batch"), [*((norm, 2) for norm in get_args(NormType)), ("rms", 1), ("layer", 3)])
def test_every_norm_and_batch(norm: NormType, batch: int, interpreter: Interpreter) -> None:
    quantizer = random_quantizer(norm=norm)
    latent = random_latent(quantizer, batch)
    ids = interpreter.ids(quantizer, latent)
    np.testing.assert_array_equal(ids, quantizer(torch.from_numpy(latent)).numpy())
    assert len(np.unique(ids)) > 3
    assert agreement(quantizer, latent, ids) == 1


# One code, less than a block, whole blocks, one more, and neither blocks nor splits that come out even.
@pytest.mark.parametrize("vocab_size", [1, 5, 16, 17, 100, 257])
def test_any_vocabulary(vocab_size: int, interpreter: Interpreter) -> None:
    quantizer = random_quantizer(vocab_size)
    latent = random_latent(quantizer, 2)
    np.testing.assert_array_equal(interpreter.ids(quantizer, latent), quantizer(torch.from_numpy(latent)).numpy())


@pytest.mark.parametrize("programs", [1, 3, 10, 1000])
def test_how_the_table_is_split_changes_nothing(programs: int, interpreter: Interpreter) -> None:
    quantizer = random_quantizer(200, (1, 3, 4))
    latent = random_latent(quantizer, 2)
    ids = interpreter.ids(quantizer, latent, programs=programs)
    np.testing.assert_array_equal(ids, quantizer(torch.from_numpy(latent)).numpy())


# Whole numbers up to 3: every score is exact in float32, and many are equal.
def small_numbers(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(-3, 4, shape).astype(np.float32))


@settings(max_examples=15)
@given(
    vocab_size=st.integers(1, 130),
    side=st.integers(1, 5),
    channels=st.integers(1, 18),
    batch=st.integers(1, 3),
    programs=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_lowest_of_equal_codes_wins(
    interpreter: Interpreter,
    vocab_size: int,
    side: int,
    channels: int,
    batch: int,
    programs: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    table, values = small_numbers(rng, vocab_size, channels + 1), small_numbers(rng, vocab_size, channels)
    copies = torch.from_numpy(rng.integers(0, max(1, vocab_size // 3), vocab_size))
    table = table[copies]
    quantizer = FoldedQuantizer(FoldedSearch(table, values), make_spec(vocab_size, (side,), channels))
    latent = small_numbers(rng, batch, channels, side, side)
    scores = latent.permute(0, 2, 3, 1).reshape(-1, channels) @ table[:, :channels].T + table[:, channels]
    ids = interpreter.ids(quantizer, latent.numpy(), programs=programs)
    np.testing.assert_array_equal(ids.ravel(), scores.numpy().argmax(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ids_exist_even_where_the_latent_is_not_a_number(bad: float, interpreter: Interpreter) -> None:
    quantizer = random_quantizer(100)
    latent = random_latent(quantizer, 2)
    expected = interpreter.ids(quantizer, latent)
    latent[0, :, 1:3] = bad
    ids = interpreter.ids(quantizer, latent)
    assert 0 <= ids.min() <= ids.max() < 100
    np.testing.assert_array_equal(ids[1], expected[1])


def test_equal_tables_of_another_order_give_other_ids(interpreter: Interpreter) -> None:
    """The test above would hold for kernels that look at nothing."""
    quantizer = random_quantizer(100)
    latent = random_latent(quantizer, 1)
    turned = dataclasses.replace(
        quantizer.search, table=quantizer.search.table.flip(0), values=quantizer.search.values.flip(0)
    )
    ids = interpreter.ids(FoldedQuantizer(turned, quantizer.spec), latent)
    np.testing.assert_array_equal(99 - ids, interpreter.ids(quantizer, latent))
