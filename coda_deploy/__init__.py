"""coda-deploy: train, adapt, import and export discrete image tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coda_deploy.errors import ConfigError, DataError, DivergedError, ModuleNeededError, StoppedError, WeightsError
from coda_deploy.schemes import SCHEMES
from coda_runtime.errors import CodaError
from coda_runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from coda_deploy.tokenizer import CodaTokenizer, LoraConfig, TokenizerConfig
    from coda_deploy.tokenizer.source import Source

__all__ = [
    "CodaError",
    "CodaTokenizer",
    "ConfigError",
    "DataError",
    "DivergedError",
    "LoraConfig",
    "ModuleNeededError",
    "StoppedError",
    "TokenizerConfig",
    "WeightsError",
]


def _official(rest: str) -> Source:
    from coda_deploy.official import open_published

    return open_published(rest)


def _python(rest: str) -> Source:
    from coda_deploy.tokenizer.source import PythonSource

    return PythonSource(rest)


# Names may begin with these as soon as anything of this package is imported.
SCHEMES["official"] = _official
SCHEMES["python"] = _python


# `coda train --help` needs no PyTorch, whose import takes seconds.
_LAZY = dict.fromkeys(("CodaTokenizer", "LoraConfig", "TokenizerConfig"), "tokenizer")

__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
