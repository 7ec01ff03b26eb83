"""coda-deploy: train, adapt, import and export discrete image tokenizers."""

import coda_deploy.official  # noqa: F401 - names may begin with official:
from coda_deploy.tokenizer import CodaTokenizer, ConfigError, LoraConfig, TokenizerConfig, WeightsError
from coda_runtime.errors import CodaError

__all__ = ["CodaError", "CodaTokenizer", "ConfigError", "LoraConfig", "TokenizerConfig", "WeightsError"]
