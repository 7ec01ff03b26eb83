"""A small tokenizer's quantizer: its spec, search tables and values, and a bundle of it alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from coda_runtime.backends.ptx import KernelSet, SearchTables
from coda_runtime.format.bundle import Bundle, describe_file
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.spec import Spec

SPEC = Spec("test", 32, 8, 3, 29, (1, 2, 4), 21)
RNG = np.random.default_rng(0)
TABLES = SearchTables(RNG.standard_normal((29, 4), np.float32))
NORMED = SearchTables(RNG.standard_normal((29, 5), np.float32), RNG.standard_normal((4, 6), np.float32), 1e-5)
VALUES = RNG.standard_normal((29, 3), np.float32)


def artifact(part: str, format: str, file: str, engine: Any = None) -> Artifact:
    return Artifact(part, format, "fp32", file, "0" * 64, 0, engine=engine)


def bundle_of(folder: Path, kernels: KernelSet, ptx: bytes) -> tuple[Bundle, Artifact]:
    """A bundle of the quantizer's kernels and tables alone."""
    made = [
        artifact("quantizer", "ptx", "kernels/q.ptx", kernels.to_json()),
        artifact("search", "npz", "search.fp32.npz"),
        artifact("codebook", "npy", "codebook.fp32.npy"),
    ]
    (folder / "kernels").mkdir()
    (folder / made[0].file).write_bytes(ptx)
    TABLES.save(folder / made[1].file)
    np.save(folder / made[2].file, VALUES)
    for place, part in enumerate(made):
        sha256, size = describe_file(folder, part.file)
        made[place] = dataclasses.replace(part, sha256=sha256, bytes=size)
    return Bundle(folder, Manifest(SPEC, tuple(made)), b""), made[0]
