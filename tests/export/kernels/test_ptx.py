"""The compiled kernels, as they ship, run by their launch plan in a PTX interpreter, against the NumPy quantizer.

The interpreter raises for an access out of a buffer's bounds or misaligned, a race, a value that nobody wrote, and an
instruction that it does not know. test_compile.py does it for every target.
"""

from __future__ import annotations

import numpy as np
import pytest

from coda_export.folding import FoldedSearch
from coda_export.folding.modules import FoldedQuantizer
from coda_export.kernels import DEFAULT_TARGET, PTX_ISA, compile_quantizer, search_tables
from coda_runtime.backends.ptx import KernelSet
from tests.export.kernels.cases import (
    golden_quantizer,
    random_latent,
    random_quantizer,
    reference,
    run_kernels,
    small_quantizer,
    some_targets,
)
from tests.export.kernels.conftest import Compiled
from tests.golden import Golden


def compile_for(quantizer: FoldedQuantizer, target: str = DEFAULT_TARGET) -> tuple[bytes, KernelSet]:
    return compile_quantizer(quantizer.spec, search_tables(quantizer.search), targets=(target,))[target]


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_batches_that_fill_no_block(batch: int, compiled: Compiled) -> None:
    quantizer = small_quantizer()
    latent = random_latent(quantizer, batch)
    np.testing.assert_array_equal(run_kernels(compiled("sm80"), quantizer, latent), reference(quantizer).ids(latent))


@pytest.mark.parametrize("target", some_targets("sm80", "sm100"))
def test_the_lowest_of_equal_codes_wins(target: str, compiled: Compiled) -> None:
    """Every code stands three times in the table, in other splits and chunks."""
    quantizer = small_quantizer()
    search, copies = quantizer.search, np.arange(100) % 33
    tied = FoldedSearch(search.table[copies], search.values[copies], search.spread, search.eps)
    latent = random_latent(quantizer, 2)
    for programs, screen_from in ((1, 1), (1, 1000), (1000, 1), (1000, 1000)):
        ids = run_kernels(compiled(target), FoldedQuantizer(tied, quantizer.spec), latent, programs, screen_from)
        assert ids.max() < 33
        assert len(np.unique(ids)) > 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("target", some_targets("sm80", "sm100"))
def test_ids_exist_even_where_the_latent_is_not_a_number(target: str, bad: float, compiled: Compiled) -> None:
    """An id that does not exist would be a load out of the value table's bounds."""
    quantizer = small_quantizer()
    latent = random_latent(quantizer, 2)
    expected = run_kernels(compiled(target), quantizer, latent)
    latent[0, :, 1:3] = bad
    ids = run_kernels(compiled(target), quantizer, latent)
    assert 0 <= ids.min() <= ids.max() < 100
    np.testing.assert_array_equal(ids[1], expected[1])


@pytest.mark.parametrize("golden", ["mar_v16384"], indirect=True)
def test_a_golden_case_by_the_kernels_that_ship(golden: Golden) -> None:
    quantizer = golden_quantizer(golden)
    ids = run_kernels(compile_for(quantizer), quantizer, golden.latent[:1])
    np.testing.assert_array_equal(ids, golden.ids[:1])


@pytest.mark.slow
@pytest.mark.parametrize("target", PTX_ISA)
def test_golden_cases_by_every_target(target: str, golden: Golden) -> None:
    """All scales screened; FLUX's up to 13 x 13, since its two largest take ten times as long as the rest."""
    quantizer = golden_quantizer(golden, None if golden.variant == "mar_v16384" else 7)
    latent = golden.latent[:1]
    ids = run_kernels(compile_for(quantizer, target), quantizer, latent, screen_from=1)
    np.testing.assert_array_equal(ids, golden.ids[:1, : ids.shape[1]])


@pytest.mark.slow
@pytest.mark.parametrize("target", PTX_ISA)
@pytest.mark.parametrize(
    ("vocab_size", "scales", "channels"),
    [(1000, (1, 2, 5, 9), 17), (17, (7,), 1), (300, (12,), 40), (70, (1, 4), 100)],
)
def test_sizes_that_fit_nothing(vocab_size: int, scales: tuple[int, ...], channels: int, target: str) -> None:
    quantizer = random_quantizer(vocab_size, scales, channels, "layer")
    latent = random_latent(quantizer, 2)
    for screen_from in (1, 1000):
        ids = run_kernels(compile_for(quantizer, target), quantizer, latent, 10, screen_from)
        assert (reference(quantizer).step(latent, ids) == ids).mean() >= 0.99
