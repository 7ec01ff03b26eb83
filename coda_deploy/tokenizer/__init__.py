"""The tokenizer in PyTorch: configuration, quantizer, LoRA, storage."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from coda_deploy.errors import ConfigError, WeightsError
from coda_deploy.tokenizer.config import LoraConfig, TokenizerConfig
from coda_deploy.tokenizer.variants import VARIANTS

if TYPE_CHECKING:
    from coda_deploy.tokenizer.model import CodaTokenizer, TokenizerOutput

__all__ = [
    "VARIANTS",
    "CodaTokenizer",
    "ConfigError",
    "LoraConfig",
    "TokenizerConfig",
    "TokenizerOutput",
    "WeightsError",
]
# Imported on first use, with PyTorch: what only reads a configuration goes without.
_LAZY = {"CodaTokenizer": "model", "TokenizerOutput": "model"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
