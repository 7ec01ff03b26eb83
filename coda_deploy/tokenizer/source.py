"""From a name to what a tokenizer is made of: the one place that decides what a name means.

A folder, a hub id, or ``scheme:rest``, where a package above this one said in ``SCHEMES`` what that is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from coda_deploy.schemes import SCHEMES
from coda_deploy.tokenizer import storage
from coda_deploy.tokenizer.config import TokenizerConfig
from coda_deploy.tokenizer.origin import Origin
from coda_runtime.format.checksums import sha256_file


class Weights(NamedTuple):
    """Tensors, float32, and where known the checkpoint that they were imported from, and the VAE that they began as."""

    tensors: dict[str, Tensor]
    checkpoint: dict[str, Any] | None
    origin: Origin | None = None


class Source(Protocol):
    """Where a tokenizer comes from."""

    @property
    def config(self) -> TokenizerConfig:
        """What it is, without its weights."""
        ...

    def read(self, expected: Mapping[str, Tensor]) -> Weights:
        """Read tensors of exactly the names and shapes of ``expected``. Raises ``CodaError`` for any others."""
        ...

    def digest(self, weights: Mapping[str, Tensor]) -> str:
        """Return the SHA-256 of the tokenizer folder's weights: as they lie there, or as ``weights`` would."""
        ...


class FolderSource:
    """A tokenizer folder."""

    def __init__(self, folder: Path) -> None:
        """Read its configuration. Raises ``ConfigError``."""
        self._folder, self._config = folder, storage.read_config(folder)
        self._sha256: str | None = None

    @property
    def config(self) -> TokenizerConfig:
        """Its config.json."""
        return self._config

    def read(self, expected: Mapping[str, Tensor]) -> Weights:
        """Read its two other files. Raises ``WeightsError``, or ``ConfigError`` for a damaged provenance."""
        tensors, self._sha256 = storage.read_weights(self._folder)
        advice = f"is it whole, and of the same tokenizer as the {storage.CONFIG_NAME} beside it?"
        storage.check_weights(tensors, expected, str(self._folder / storage.WEIGHTS_NAME), advice)
        return Weights(tensors, *storage.read_provenance(self._folder, self._sha256))

    def digest(self, weights: Mapping[str, Tensor]) -> str:
        """Return what was read, which may be in another precision; without that, what lies there now."""
        return self._sha256 or sha256_file(self._folder / storage.WEIGHTS_NAME)


def has_scheme(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is ``scheme:rest`` of a known scheme, and no path that exists."""
    scheme, colon, _ = os.fspath(name).partition(":")
    return bool(colon) and scheme in SCHEMES and not Path(name).exists()


def open_source(name: str | os.PathLike[str]) -> Source:
    """Find what ``name`` means; its weights are read later. Raises ``CodaError`` where it means nothing."""
    if has_scheme(name):
        scheme, _, rest = os.fspath(name).partition(":")
        return SCHEMES[scheme](rest)
    return FolderSource(storage.locate(name))
