from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coda_runtime.backends.ptx import SearchTables, device_tables
from coda_runtime.errors import ArtifactError
from coda_runtime.format.spec import Spec
from tests.runtime.backends.host_kernels import kernel_set

SPEC = Spec("test", 32, 8, 3, 29, (1, 4), 17)
RNG = np.random.default_rng(0)
PLAIN = SearchTables(RNG.standard_normal((29, 4), np.float32))
NORMED = SearchTables(RNG.standard_normal((29, 5), np.float32), RNG.standard_normal((4, 6), np.float32), 1e-5)
VALUES = RNG.standard_normal((29, 3), np.float32)


def test_the_scores_are_those_of_the_table() -> None:
    tables = device_tables(kernel_set(SPEC, 32, 6), SPEC, NORMED, VALUES)
    rows, padded = RNG.standard_normal((7, 3), np.float32), np.zeros((7, 16), np.float32)
    padded[:, :3] = rows
    query = padded @ tables["spread"] + tables["offset"]
    std = RNG.random((7, 1), np.float32)
    scores = padded @ tables["table"] + tables["bias"] + std * tables["slope"]
    expected = np.concatenate([rows, np.ones((7, 1), np.float32), std], 1) @ NORMED.table.T
    np.testing.assert_allclose(scores[:, :29], expected, rtol=1e-5, atol=1e-5)
    assert (scores[:, 29:] == -np.inf).all()
    assert NORMED.spread is not None
    np.testing.assert_allclose(query[:, :6], np.c_[rows, np.ones(7, np.float32)] @ NORMED.spread, rtol=1e-5, atol=1e-5)
    assert (query[:, 6:] == 0).all()
    np.testing.assert_array_equal(tables["values"], np.pad(VALUES, ((0, 0), (0, 13))))


def test_names_dtypes_and_layout() -> None:
    tables = device_tables(kernel_set(SPEC, 32), SPEC, PLAIN, VALUES)
    constants = {"table", "bias", "slope", "spread", "offset", "values"}
    assert set(tables) == constants | {"taps.1", "weights.1", "taps.4", "weights.4"}
    for name, array in tables.items():
        assert array.dtype == (np.int32 if name.startswith("taps") else np.float32), name
        assert array.flags.c_contiguous, name


@pytest.mark.parametrize(
    ("tables", "query", "values"),
    [(PLAIN, 6, VALUES), (NORMED, 0, VALUES), (NORMED, 5, VALUES), (PLAIN, 0, VALUES[1:]),
     (dataclasses.replace(PLAIN, table=PLAIN.table[1:]), 0, VALUES)],
)  # fmt: skip
def test_tables_of_another_tokenizer(tables: SearchTables, query: int, values: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="export the bundle again"):
        device_tables(kernel_set(SPEC, 32, query), SPEC, tables, values)
