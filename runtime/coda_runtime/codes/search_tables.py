"""The search table as a file of the bundle: part "search", format "npz"."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ArtifactError
from ..format.spec import Spec
from ..io.atomic_files import staged_file
from ..io.npy import read_npz

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SearchTables:
    """The folded search: the code of a pooled row t [C] is ``argmax_n features(t) . table[n]``, the first of equals.

    The features are (t, 1), or (t, 1, std) where a LayerNorm needs the query's standard deviation:
    ``std = sqrt(mean(((t, 1) . spread)^2) + eps)``. `table` is float32 [V, C + 1], or [V, C + 2] with `spread`,
    float32 [C + 1, d], which is None otherwise.
    """

    table: Float32
    spread: Float32 | None = None
    eps: float = 0.0

    @classmethod
    def load(cls, path: str | os.PathLike[str], spec: Spec, read: bytes | None = None) -> SearchTables:
        """Read what `save` wrote, of the file or of its bytes where somebody has `read` them already.

        Raises ArtifactError for a file that is no such archive or does not fit `spec`.
        """
        try:
            arrays = read_npz(path, read=read)
        except ValueError as error:
            _fail(path, f"is not a readable .npz file ({error})")
        if set(arrays) not in ({"table"}, {"table", "spread", "eps"}):
            _fail(path, f"holds {', '.join(sorted(arrays)) or 'nothing'}; expected table, or table, spread and eps")
        channels, has_spread = spec.latent_channels, "spread" in arrays
        _check(path, "table", arrays["table"], (spec.vocab_size, channels + 1 + has_spread))
        if not has_spread:
            return cls(arrays["table"])
        spread, eps = arrays["spread"], arrays["eps"]
        _check(path, "spread", spread, (channels + 1, spread.shape[-1] if spread.ndim else 0))
        if eps.shape != () or eps.dtype != np.float64 or not 0 <= eps < np.inf:
            _fail(path, f"has eps {eps!r}; expected one float64, 0 or more")
        return cls(arrays["table"], spread, float(eps))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file at `path`, the same bytes for the same tables. Raises OutputError."""
        arrays: dict[str, npt.NDArray[Any]] = {"table": np.asarray(self.table, np.float32)}
        if self.spread is not None:
            arrays |= {"spread": np.asarray(self.spread, np.float32), "eps": np.asarray(self.eps, np.float64)}
        # An open file: of a path, numpy would change the suffix.
        with staged_file(path) as staged, staged.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def _check(path: str | os.PathLike[str], name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32 or array.shape != shape or 0 in shape:
        _fail(path, f"has {name} {array.dtype} {list(array.shape)}; expected float32 {list(shape)}")
    if not np.isfinite(array).all():
        _fail(path, f"has NaN or infinity in {name}")


def _fail(path: str | os.PathLike[str], what: str) -> NoReturn:
    raise ArtifactError(f"{os.fspath(path)} {what}; export the bundle again")
