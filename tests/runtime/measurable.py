"""The tiny bundle with the two parts that let it measure itself, and what they are made of: a tokenizer in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.codes.resample import upsample_matrix
from coda_runtime.codes.search_tables import SearchTables
from coda_runtime.format.bundle import seal
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.parity import ParitySamples
from tests.runtime import tiny

Array = np.ndarray[Any, Any]
TABLES = SearchTables(np.concatenate([tiny.TABLE, np.zeros((tiny.CODES, 1), np.float32)], 1))
SAMPLES = 5


class NumpyReference:
    """What the tiny graphs compute, in NumPy: a `Reference`."""

    def __init__(self) -> None:
        self._quantizer = NumpyQuantizer(tiny.SPEC, TABLES, tiny.TABLE)

    def latent(self, images: Array) -> Array:
        pixels = (images.astype(np.float32) / 127.5 - 1).reshape(-1, tiny.SIDE, tiny.DOWN, tiny.SIDE, tiny.DOWN, 3)
        return np.einsum("bhwc,kc->bkhw", pixels.mean((2, 4)), tiny.MIX[:, :, 0, 0]).astype(np.float32)

    def encode(self, latent: Array) -> Array:
        return self._quantizer.ids(latent)

    def step(self, latent: Array, ids: Array) -> Array:
        return self._quantizer.step(latent, ids)

    def decode(self, ids: Array) -> Array:
        total, start = np.float32(0), 0
        for side in tiny.SCALES:
            values = tiny.TABLE[ids[:, start : start + side * side]].reshape(-1, side, side, tiny.CHANNELS)
            up = upsample_matrix(tiny.SIDE, side)
            total, start = total + up @ values.transpose(0, 3, 1, 2) @ up.T, start + side * side
        pixels = np.einsum("bkhw,ck->bhwc", total, tiny.OUT[:, :, 0, 0]).repeat(tiny.DOWN, 1).repeat(tiny.DOWN, 2)
        return np.clip(np.round(127.5 * pixels + 127.5), 0, 255).astype(np.uint8)


def add_parts(folder: Path, artifacts: list[Artifact]) -> list[Artifact]:
    """Write the search table and the samples; return all artifacts."""
    TABLES.save(folder / "search.fp32.npz")
    ParitySamples.take(NumpyReference(), tiny.photos(SAMPLES)).save(folder / "parity.fp32.npz")
    return [*artifacts, tiny.describe(folder, "search.fp32.npz"), tiny.describe(folder, "parity.fp32.npz")]


def make(folder: Path, *more: Artifact, **provenance: Any) -> Path:
    """A sealed bundle; `more` artifacts describe files that lie in `folder` already."""
    artifacts = add_parts(folder, tiny.write_files(folder))
    seal(folder, Manifest(tiny.SPEC, (*artifacts, *more), provenance=provenance))
    return folder
