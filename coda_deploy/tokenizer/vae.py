"""The continuous VAE that a tokenizer is adapted from: a diffusers ``AutoencoderKL``, from a folder or the hub."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.storage import is_hub_id
from coda_runtime.errors import one_line
from coda_runtime.io.counts import count

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_CLASS = "AutoencoderKL"


def load_vae(where: str | os.PathLike[str]) -> AutoencoderKL:
    """Load a VAE in float32, in evaluation.

    ``where`` is a folder that diffusers wrote (a pipeline's folder with one in ``vae/`` will do), or a hub id,
    ``owner/name`` or ``owner/name:subfolder``. Its weights are in a .safetensors file. Raises ``ConfigError`` naming
    what was found instead.
    """
    folder = Path(where)
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: expected a folder that diffusers' {_CLASS}.save_pretrained wrote")
    if folder.is_dir():
        return _from_folder(folder if (folder / CONFIG_NAME).is_file() else folder / "vae", str(where))
    name, _, subfolder = str(where).partition(":")
    if not is_hub_id(name):
        raise ConfigError(f"there is no VAE at {where}: give an existing folder, or a hub id like owner/name")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the hub's library, about how diffusers calls it
            settings = AutoencoderKL.load_config(name, subfolder=subfolder or None)
            _check_class(settings, str(where))
            return _load(name, str(where), subfolder=subfolder or None)
    except ConfigError:
        raise
    except Exception as error:  # the hub's, requests' and diffusers' own, without a common root
        raise ConfigError(
            f"{where} is not a local folder, and no diffusers {_CLASS} could be loaded from the hub "
            f"({one_line(error, named=True, line=0)}); check the name (a pipeline's VAE is owner/name:vae), "
            f"the network and a gated model's licence; the weights must be in {WEIGHTS_NAME}"
        ) from error


def _from_folder(folder: Path, asked: str) -> AutoencoderKL:
    try:
        settings = AutoencoderKL.load_config(folder, local_files_only=True)
    except Exception as error:  # diffusers' OSError and whatever a foreign file brings
        raise ConfigError(f"{asked} holds no diffusers {_CLASS}: it has no readable {CONFIG_NAME}") from error
    _check_class(settings, asked)
    _check_files(folder, asked)
    try:
        return _load(folder, asked, local_files_only=True)
    except ConfigError:
        raise
    except Exception as error:  # a cut file, a misshapen tensor: safetensors', diffusers' and torch's own errors
        raise ConfigError(
            f"the {_CLASS} in {asked} cannot be read ({one_line(error, named=True, line=0)}); "
            f"copy its {CONFIG_NAME} and its weights again from where they were saved together"
        ) from error


def _check_files(folder: Path, asked: str) -> None:
    """Raise ``ConfigError`` where weights are there that diffusers would not read unasked, with how to save them."""
    if any((folder / f"{WEIGHTS_NAME}{end}").is_file() for end in ("", ".index.json")):
        return
    stem, suffix = Path(WEIGHTS_NAME).stem, Path(WEIGHTS_NAME).suffix
    for path in sorted(folder.glob(f"{stem}*")):
        variant = path.name.removeprefix(stem).removesuffix(path.suffix).lstrip(".")
        if path.suffix not in (suffix, ".bin") or "-of-" in variant:
            continue
        options = [f'variant="{variant}"'] if variant else []
        options += [] if path.suffix == suffix else ["use_safetensors=False"]
        trusted = "" if path.suffix == suffix else ", if you trust it,"
        raise ConfigError(
            f"{asked} has no {WEIGHTS_NAME}, only {path.name}; save it{trusted} as that, in another folder: "
            f'diffusers.{_CLASS}.from_pretrained("{folder}", {", ".join(options)}).save_pretrained("FOLDER")'
        )
    raise ConfigError(
        f"{asked} has a {CONFIG_NAME} and no file named {WEIGHTS_NAME} found beside it; expected what diffusers' "
        f"{_CLASS}.save_pretrained wrote: copy the weights there too"
    )


def _check_class(settings: Any, asked: str) -> None:
    kind = settings.get("_class_name") if isinstance(settings, dict) else None
    if kind != _CLASS:
        raise ConfigError(f"{asked} holds a {kind or 'model of an unknown kind'}, expected a diffusers {_CLASS}")


def _load(where: str | Path, asked: str, **settings: Any) -> AutoencoderKL:
    vae, info = AutoencoderKL.from_pretrained(
        where, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True, **settings
    )
    # diffusers only warns of these, and leaves them without a value.
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"the weights of {asked} lack {count(len(missing), 'tensor')} that its {CONFIG_NAME} asks for, first "
            f"{missing[0]!r}: copy both again from where they were saved together"
        )
    for name, tensor in vae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(
                f"the weights of {asked} hold NaN or infinite values, first in {name!r}: the training that made them "
                "diverged, or they overflowed in half precision; take others"
            )
    return vae
