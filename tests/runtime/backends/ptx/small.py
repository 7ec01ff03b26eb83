"""A small tokenizer's quantizer: its spec, search tables and values."""

from __future__ import annotations

import numpy as np

from coda_runtime.backends.ptx import SearchTables
from coda_runtime.format.spec import Spec

SPEC = Spec("test", 32, 8, 3, 29, (1, 2, 4), 21)
RNG = np.random.default_rng(0)
TABLES = SearchTables(RNG.standard_normal((29, 4), np.float32))
NORMED = SearchTables(RNG.standard_normal((29, 5), np.float32), RNG.standard_normal((4, 6), np.float32), 1e-5)
VALUES = RNG.standard_normal((29, 3), np.float32)
