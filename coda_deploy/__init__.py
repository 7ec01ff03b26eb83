"""coda-deploy: train, adapt, import and export discrete image tokenizers."""

from coda_deploy.tokenizer import CodaTokenizer, ConfigError, LoraConfig, TokenizerConfig, WeightsError
from coda_runtime.errors import CodaError

__all__ = ["CodaError", "CodaTokenizer", "ConfigError", "LoraConfig", "TokenizerConfig", "WeightsError"]
