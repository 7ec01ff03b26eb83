"""The tokenizer in PyTorch: configuration, quantizer, LoRA, storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coda_deploy.errors import ConfigError, WeightsError
from coda_deploy.tokenizer.config import LoraConfig, TokenizerConfig
from coda_deploy.tokenizer.variants import VARIANTS
from coda_runtime.lazy_names import lazy_names

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


__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
