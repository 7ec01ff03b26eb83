"""Read an official checkpoint: ``vae_ema.pth`` and ``quantizer_ema.pth``, both plain state dicts."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from coda_deploy.official.keys import QUANTIZER_FILE, VAE_FILE, as_official, official_key
from coda_deploy.tokenizer.config import ConfigError
from coda_deploy.tokenizer.model import CodaTokenizer
from coda_deploy.tokenizer.storage import WeightsError, check_weights, read_state
from coda_deploy.tokenizer.variants import VARIANTS


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict, read with ``weights_only=True`` so that the file can run no code."""
    if not path.is_file():
        raise WeightsError(
            f"{path} is missing: an official checkpoint is a folder with {VAE_FILE} and {QUANTIZER_FILE}"
        )
    return read_state(path)


def import_official(folder: str | os.PathLike[str], variant: str) -> CodaTokenizer:
    """Load the published checkpoint in ``folder`` as ``variant`` (``mar_v16384`` or ``flux_v65536``), in eval mode.

    Raises ``ConfigError`` for an unknown variant, and ``WeightsError`` for a missing or damaged file, or a missing,
    extra or misshapen key, naming it and the nearest expected one.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"unknown variant {variant!r}, expected one of {', '.join(VARIANTS)}")
    root = Path(folder)
    if not root.is_dir():
        raise WeightsError(f"no folder at {root}: give the folder with {VAE_FILE} and {QUANTIZER_FILE}")
    with torch.device("meta"):
        tokenizer = CodaTokenizer(VARIANTS[variant])
    own = tokenizer.state_dict()
    names = {key: official_key(key, ldm=variant.startswith("mar")) for key in own}
    weights: dict[str, Tensor] = {}
    for file in (VAE_FILE, QUANTIZER_FILE):
        found = _read(root / file)
        expected = {name: as_official(name, own[key]) for key, (where, name) in names.items() if where == file}
        check_weights(found, expected, str(root / file))
        weights |= {
            key: found[name].float().reshape(own[key].shape) for key, (where, name) in names.items() if where == file
        }
    tokenizer.load_state_dict(weights, assign=True)
    return tokenizer.freeze().eval()
