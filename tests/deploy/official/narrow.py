"""The published variants with few channels and codes: the same keys, a thousandth of the weights.

`python -m tests.deploy.official.narrow ARGUMENTS` is `coda ARGUMENTS` with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from coda_deploy import CodaTokenizer, LoraConfig, TokenizerConfig
from coda_deploy.official.keys import QUANTIZER_FILE, VAE_FILE, as_ldm, official_key
from coda_deploy.tokenizer.variants import VARIANTS
from tests.tiny_tokenizers import enliven

State = dict[str, Tensor]


def narrow_variants() -> dict[str, TokenizerConfig]:
    return {name: _narrow(config) for name, config in VARIANTS.items()}


def _narrow(config: TokenizerConfig) -> TokenizerConfig:
    vae = {**config.vae, "norm_num_groups": 4, "block_out_channels": (4,) * len(config.vae["block_out_channels"])}
    return dataclasses.replace(
        config,
        vae=vae,
        vocab_size=32,
        image_size=4 * config.downsample,
        scales=(1, 2, 4),
        lora=LoraConfig(2, config.lora.targets if config.lora else ()),
    )


def checkpoint(variant: str, seed: int = 0) -> tuple[CodaTokenizer, dict[str, State]]:
    """A tokenizer of VARIANTS as they are now, and its weights as the official files hold them."""
    tokenizer = CodaTokenizer(VARIANTS[variant])
    enliven(tokenizer, seed)
    files: dict[str, State] = {VAE_FILE: {}, QUANTIZER_FILE: {}}
    for key, tensor in tokenizer.state_dict().items():
        file, name = official_key(key, ldm=variant.startswith("mar"))
        files[file][name] = as_ldm(name, tensor).clone()
    return tokenizer.eval(), files


def write(folder: Path, files: Mapping[str, State]) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for file, state in files.items():
        torch.save(state, folder / file)
    return folder


if __name__ == "__main__":
    from coda_runtime.cli import main

    VARIANTS.update(narrow_variants())
    main()
