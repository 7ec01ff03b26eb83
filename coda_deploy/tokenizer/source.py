"""From a name to what a tokenizer is made of: the one place that decides what a name means.

A folder, a hub id, or ``scheme:rest``, where a package above this one said in ``SCHEMES`` what that is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from coda_deploy.errors import ConfigError
from coda_deploy.schemes import SCHEMES
from coda_deploy.tokenizer import storage
from coda_deploy.tokenizer.config import TokenizerConfig
from coda_deploy.tokenizer.origin import Origin
from coda_deploy.tokenizer.python_module import SCHEME, call_python
from coda_runtime.format.checksums import sha256_file


class Weights(NamedTuple):
    """Tensors, float32, and where known the checkpoint that they were imported from, and the VAE that they began as."""

    tensors: dict[str, Tensor]
    checkpoint: dict[str, Any] | None
    origin: Origin | None = None


class Source(Protocol):
    """Where a tokenizer comes from."""

    @property
    def vae(self) -> nn.Module | None:
        """The VAE that it brings along; None where its family makes one of the configuration."""
        return None

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


class FolderSource(Source):
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


class PythonSource(Source):
    """The tokenizer folder of a VAE of the user's own: ``MODULE:FUNCTION:FOLDER``; the function makes the VAE."""

    def __init__(self, name: str) -> None:
        """Call the function and read the folder's configuration. Raises ``ConfigError``."""
        module, _, rest = name.partition(":")
        function, colon, folder = rest.partition(":")
        if not colon or not folder:
            raise ConfigError(
                f"{SCHEME}{name} names no tokenizer, expected {SCHEME}MODULE:FUNCTION:FOLDER, the function that makes "
                "the VAE and the tokenizer's folder or hub id"
            )
        self.folder, self._vae = FolderSource(storage.locate(folder)), call_python(f"{SCHEME}{module}:{function}")

    @property
    def vae(self) -> nn.Module:
        """What the function made."""
        return self._vae

    @property
    def config(self) -> TokenizerConfig:
        """The folder's."""
        return self.folder.config

    def read(self, expected: Mapping[str, Tensor]) -> Weights:
        """Read the folder's weights, and give the VAE with them."""
        return self.folder.read(expected)

    def digest(self, weights: Mapping[str, Tensor]) -> str:
        """Return what the folder's weights are known by."""
        return self.folder.digest(weights)


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
