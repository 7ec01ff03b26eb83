"""The quantizer in NumPy: what every other one is compared with, where there is no PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArtifactError, InputError, TokenError
from ..format.parts import LATENT
from ..format.spec import Spec
from .ids import Ids, check_ids
from .resample import pool, upsample
from .search_tables import SearchTables

Float32 = npt.NDArray[np.float32]
_ROWS = 1024
_CODES = 8192


class NumpyQuantizer:
    """Latents to ids, float32, on the CPU. No more than 1024 x 8192 scores exist at a time. Safe in many threads."""

    def __init__(self, spec: Spec, tables: SearchTables, values: Float32) -> None:
        """`values` is the bundle's value table, float32 [V, C]. Raises ArtifactError for one of another shape."""
        expected = (spec.vocab_size, spec.latent_channels)
        if values.dtype != np.float32 or values.shape != expected:
            raise ArtifactError(
                f"the value table is {values.dtype} {list(values.shape)}, expected float32 {list(expected)}; "
                "export the bundle again"
            )
        self.spec, self._tables, self._values = spec, tables, values

    def ids(self, latent: npt.NDArray[Any]) -> Ids:
        """Quantize latents, float32 [B, C, h, w] -> ids int32 [B, L], free-running. Raises InputError."""
        return self._run(latent, None)

    def step(self, latent: npt.NDArray[Any], ids: npt.NDArray[Any]) -> Ids:
        """Return, at each scale, the ids found in the residual that `ids`' own earlier scales leave: int32 [B, L].

        `ids` are [B, L], each in [0, V). Raises InputError, TokenError.
        """
        given = check_ids(ids, self.spec)
        expected = (len(latent), self.spec.num_tokens)
        if given.shape != expected:
            raise TokenError(
                f"ids has shape {list(given.shape)}; expected {list(expected)}: every scale of each latent"
            )
        return self._run(latent, given)

    def search(self, rows: Float32) -> Ids:
        """Find the best code of each row, float32 [N, C] -> int32 [N]; the first of equals."""
        out = np.zeros(len(rows), np.int32)
        for start in range(0, len(rows), _ROWS):
            out[start : start + _ROWS] = self._search(rows[start : start + _ROWS])
        return out

    def _search(self, rows: Float32) -> Ids:
        features, table = self._features(rows), self._tables.table
        best, ids = np.full(len(rows), -np.inf, np.float32), np.zeros(len(rows), np.int32)
        for start in range(0, len(table), _CODES):
            scores = features @ table[start : start + _CODES].T
            found = scores.argmax(1)
            top = np.take_along_axis(scores, found[:, None], 1)[:, 0]
            # Strictly greater: of equal scores the first code wins.
            better = top > best
            ids[better], best[better] = found[better] + start, top[better]
        return ids

    def _features(self, rows: Float32) -> Float32:
        rows = np.concatenate([rows, np.ones_like(rows[:, :1])], 1)
        spread = self._tables.spread
        if spread is None:
            return rows
        variance = np.square(rows @ spread).mean(1, keepdims=True) + np.float32(self._tables.eps)
        return np.concatenate([rows, np.sqrt(variance)], 1)

    def _run(self, latent: npt.NDArray[Any], given: Ids | None) -> Ids:
        spec = self.spec
        expected = LATENT.row(spec)
        if latent.dtype != LATENT.dtype or latent.ndim != 4 or latent.shape[1:] != expected or not len(latent):
            raise InputError(
                f"latent is {latent.dtype} {list(latent.shape)}; expected {LATENT.dtype} [B, *{list(expected)}]"
            )
        residual, found = latent, []
        for shape, stop in zip(spec.scale_shapes, spec.prefix_lengths, strict=True):
            rows = pool(residual, shape).transpose(0, 2, 3, 1).reshape(-1, spec.latent_channels)
            ids = self.search(rows).reshape(len(latent), -1)
            found.append(ids)
            if given is not None:
                ids = given[:, stop - ids.shape[1] : stop]
            values = self._values[ids].reshape(len(latent), *shape, -1).transpose(0, 3, 1, 2)
            residual = residual - upsample(values, spec.latent_shape)
        return np.concatenate(found, 1)
