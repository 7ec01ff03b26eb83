"""The continuous VAE that a tokenizer is adapted from: a diffusers ``AutoencoderKL``, from a folder or the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

from diffusers import AutoencoderKL

from coda_deploy.tokenizer.config import ConfigError

CONFIG_NAME = "config.json"


def load_vae(where: str | os.PathLike[str]) -> AutoencoderKL:
    """Load a VAE in float32.

    ``where`` is a folder that diffusers wrote (a pipeline's folder with one in ``vae/`` will do), or a hub id,
    ``owner/name`` or ``owner/name:subfolder``. Raises ``ConfigError`` naming what was found instead.
    """
    folder = Path(where)
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: expected a folder that diffusers' AutoencoderKL.save_pretrained wrote")
    if folder.is_dir():
        return _from_folder(folder if (folder / CONFIG_NAME).is_file() else folder / "vae", str(where))
    name, _, subfolder = str(where).partition(":")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ConfigError(f"there is no VAE at {where}: give an existing folder, or a hub id like owner/name")
    try:
        return cast(AutoencoderKL, AutoencoderKL.from_pretrained(name, subfolder=subfolder or None))
    except Exception as error:  # the hub's, requests' and diffusers' own, without a common root
        raise ConfigError(
            f"{where} is no local folder, and no diffusers AutoencoderKL could be had from the hub "
            f"({type(error).__name__}: {_first_line(error)}); check the name, the network and a gated model's licence"
        ) from error


def _from_folder(folder: Path, asked: str) -> AutoencoderKL:
    try:
        kind = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{asked} holds no diffusers AutoencoderKL: it has no readable {CONFIG_NAME}") from error
    if kind != "AutoencoderKL":
        raise ConfigError(f"{asked} holds a {kind or 'model of an unknown kind'}, expected a diffusers AutoencoderKL")
    try:
        return cast(AutoencoderKL, AutoencoderKL.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # a cut file, a misshapen tensor: safetensors', diffusers' and torch's own errors
        raise ConfigError(
            f"the AutoencoderKL in {asked} cannot be read ({type(error).__name__}: {_first_line(error)}); copy it again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
