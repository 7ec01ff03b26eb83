"""The tokenizer in PyTorch: configuration, quantizer, LoRA, storage."""

from coda_deploy.tokenizer.config import ConfigError, LoraConfig, TokenizerConfig
from coda_deploy.tokenizer.model import CodaTokenizer, TokenizerOutput
from coda_deploy.tokenizer.storage import WeightsError
from coda_deploy.tokenizer.variants import VARIANTS

__all__ = [
    "VARIANTS",
    "CodaTokenizer",
    "ConfigError",
    "LoraConfig",
    "TokenizerConfig",
    "TokenizerOutput",
    "WeightsError",
]
