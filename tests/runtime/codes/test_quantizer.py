"""The NumPy quantizer: against the folded one in PyTorch, the golden cases, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from coda_runtime.backends.ptx import SearchTables
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.errors import ArtifactError, InputError, TokenError
from coda_runtime.format.spec import Spec

if TYPE_CHECKING:
    from tests.golden import Golden

pytestmark = pytest.mark.numeric

SPEC = Spec("test", 32, 8, 3, 29, (1, 2, 4), 21)
RNG = np.random.default_rng(0)
TABLES = SearchTables(RNG.standard_normal((29, 4), np.float32))
VALUES = RNG.standard_normal((29, 3), np.float32)
LATENT = RNG.standard_normal((2, 3, 4, 4), np.float32)


def from_folded(quantizer: Any) -> NumpyQuantizer:
    from coda_export.kernels import search_tables

    return NumpyQuantizer(quantizer.spec, search_tables(quantizer.search), quantizer.search.values.numpy())


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("vocab_size", [1, 100, 9000])
def test_ids_are_those_of_the_folded_quantizer(norm: Any, vocab_size: int) -> None:
    torch = pytest.importorskip("torch")
    from tests.export.kernels.cases import random_latent, random_quantizer

    quantizer = random_quantizer(vocab_size, (1, 2, 3, 5, 8), norm=norm)
    latent = random_latent(quantizer, 3)
    expected, subject = quantizer(torch.from_numpy(latent)).numpy(), from_folded(quantizer)
    ids = subject.ids(latent)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(subject.step(latent, ids), ids)


def test_step_on_golden_ids(golden: Golden) -> None:
    from tests.export.kernels.cases import golden_quantizer

    subject, latent, ids = from_folded(golden_quantizer(golden)), golden.latent[:1], golden.ids[:1]
    assert (subject.step(latent, ids) == ids).mean() >= 0.999


def test_step_searches_the_residual_of_the_given_ids() -> None:
    """Scale by scale, from the definition."""
    quantizer = NumpyQuantizer(SPEC, TABLES, VALUES)
    given = RNG.integers(0, 29, (2, 21)).astype(np.int32)
    found = quantizer.step(LATENT, given)
    np.testing.assert_array_equal(found[:, :1], quantizer.ids(LATENT)[:, :1])
    # A token of 1 x 1 is the same all over the latent: without it, the second scale is a first scale's search.
    second = quantizer.search(
        (LATENT - VALUES[given[:, 0]][..., None, None])
        .reshape(2, 3, 2, 2, 2, 2)
        .mean((3, 5))
        .transpose(0, 2, 3, 1)
        .reshape(-1, 3)
    )
    np.testing.assert_array_equal(found[:, 1:5], second.reshape(2, 4))
    other = given.copy()
    other[:, 5:] = 0
    np.testing.assert_array_equal(quantizer.step(LATENT, other), found)
    other[:, 0] = (other[:, 0] + 1) % 29
    assert (quantizer.step(LATENT, other)[:, 1:] != found[:, 1:]).any()


def test_the_first_of_equal_codes_wins() -> None:
    table = np.repeat(RNG.standard_normal((1, 4), np.float32), 9000, 0)
    table[:, :3] *= np.arange(9000, dtype=np.float32)[:, None] % 3 == 1
    spec = Spec("test", 8, 8, 3, 9000, (1,), 1)
    latent = RNG.standard_normal((50, 3, 1, 1), np.float32)
    ids = NumpyQuantizer(spec, SearchTables(table), np.zeros((9000, 3), np.float32)).ids(latent)
    assert set(ids.ravel()) == {0, 1}


def test_what_is_rejected() -> None:
    quantizer = NumpyQuantizer(SPEC, TABLES, VALUES)
    ids = quantizer.ids(LATENT)
    for latent in (LATENT[:0], LATENT[0], LATENT[:, :2], LATENT.astype(np.float64), LATENT[..., :3]):
        with pytest.raises(InputError, match=r"expected float32 \[B, \*\[3, 4, 4\]\]"):
            quantizer.ids(latent)
    for wrong in (ids[:1], ids[:, :5], ids + 29, ids.astype(np.float32)):
        with pytest.raises(TokenError):
            quantizer.step(LATENT, wrong)
    with pytest.raises(ArtifactError, match="export the bundle again"):
        NumpyQuantizer(SPEC, TABLES, VALUES[1:])
