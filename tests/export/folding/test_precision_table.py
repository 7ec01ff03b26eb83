"""The runtime's table of precisions says of each what the exporter folds it into."""

from __future__ import annotations

import torch

from coda_export.folding.precision import DTYPES
from coda_runtime.format.precision import PRECISIONS


def test_the_table_and_the_folding_have_the_same_precisions() -> None:
    assert {name: getattr(torch, known.element_type) for name, known in PRECISIONS.items()} == DTYPES
    assert {name: known.itemsize for name, known in PRECISIONS.items()} == {
        name: dtype.itemsize for name, dtype in DTYPES.items()
    }
