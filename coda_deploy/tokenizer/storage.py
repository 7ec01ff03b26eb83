"""Tokenizer folders, on disk or on the hub: ``config.json`` and ``model.safetensors``. No pickle.

``provenance.json`` stands beside them where it is known what the weights were imported from (their checkpoint's
address, commit and SHA-256) or which VAE they began as.
It is a file of its own because readers of config.json refuse keys that they do not know, and because weights are to
have the same SHA-256 wherever they came from. It names the weights that it speaks of: it is not believed of others.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from coda_deploy.errors import ConfigError, WeightsError
from coda_deploy.tokenizer.config import TokenizerConfig
from coda_deploy.tokenizer.origin import Origin
from coda_runtime.errors import HubError, InputError, one_line
from coda_runtime.format.manifest import MANIFEST_NAME, MAX_BYTES
from coda_runtime.hub_source.files import fetch_files
from coda_runtime.hub_source.names import parse_hub_name
from coda_runtime.io.atomic_files import staged_folder
from coda_runtime.io.counts import count
from coda_runtime.io.json_fields import parse_json
from coda_runtime.io.regular_files import open_regular

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PROVENANCE_NAME = "provenance.json"
_MAX_WEIGHTS = 16 << 30
_NEEDED = {CONFIG_NAME: MAX_BYTES, WEIGHTS_NAME: _MAX_WEIGHTS}
_WANTED = ({**_NEEDED, PROVENANCE_NAME: MAX_BYTES}, _NEEDED, {MANIFEST_NAME: MAX_BYTES})
"""What is fetched from a repository: a tokenizer, or else the file by which a bundle is known."""
_LDM = re.compile(r"(encoder\.down|decoder\.up)\.\d+\.block\.")


def is_hub_id(name: str) -> bool:
    """Return whether ``name`` reads ``owner/name`` or ``owner/name@revision``, and not as a path; asks nobody."""
    return name.partition("@")[0].count("/") == 1 and not name.startswith((".", "/", "~"))


def locate(path_or_hub_id: str | os.PathLike[str]) -> Path:
    """Return a tokenizer's local folder; a hub id (``owner/name[@revision]``) is downloaded to the hub's cache.

    Raises ``WeightsError`` when there is neither.
    """
    path = Path(path_or_hub_id)
    if path.is_dir():
        return path
    if path.is_file():
        raise WeightsError(f"{path} is a file, expected a tokenizer folder with {CONFIG_NAME} and {WEIGHTS_NAME}")
    name = str(path_or_hub_id)
    if not is_hub_id(name):
        raise WeightsError(f"no tokenizer folder at {path}: give an existing folder, or a hub id like owner/name")
    try:
        return fetch_files(parse_hub_name(name), _WANTED).folder
    except (HubError, InputError) as error:
        raise WeightsError(
            f"{name} is not a local folder, and could not be downloaded from the hub ({one_line(error)}): check the "
            "name and the network, or give a local folder"
        ) from error


def read_config(folder: Path) -> TokenizerConfig:
    """Read the folder's ``config.json``. Raises ``ConfigError``."""
    path = folder / CONFIG_NAME
    try:
        return TokenizerConfig.from_json(parse_json(path.read_bytes()))
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is not a tokenizer folder: it has no {CONFIG_NAME}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable JSON ({error}): restore it from its source") from error


def read_weights(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Read the folder's tensors as float32, whatever precision they are stored in, and hash what was read.

    Raises ``WeightsError``.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise WeightsError(f"{folder} has no {WEIGHTS_NAME}: copy it there, or export the tokenizer again")
    try:
        with open_regular(path) as file:
            data = file.read()
        return {key: tensor.float() for key, tensor in load(data).items()}, hashlib.sha256(data).hexdigest()
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error


def read_provenance(folder: Path, sha256: str) -> tuple[dict[str, Any] | None, Origin | None]:
    """Read what the folder's weights of this SHA-256 were imported from and began as; warn if it speaks of others.

    Raises ``ConfigError`` when ``provenance.json`` is damaged.
    """
    path = folder / PROVENANCE_NAME
    try:
        found = parse_json(path.read_bytes())
        checkpoint, weights, vae = found["checkpoint"], found["weights_sha256"], found.get("vae")
        origin = None if vae is None else Origin.from_json(vae)
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is not readable ({error!r}): restore it from its source, or remove it") from error
    if not isinstance(checkpoint, dict):
        raise ConfigError(f"{path} has a checkpoint that is not an object: restore it from its source, or remove it")
    if sha256 != weights:
        warnings.warn(
            f"{path} describes other weights than those in {WEIGHTS_NAME}, and is ignored; remove it",
            RuntimeWarning,
            stacklevel=5,
        )
        return None, None
    # Empty where only the VAE is known: readers of before there was one look for it.
    return checkpoint or None, origin


def read_state(path: Path, data: bytes | None = None, nested: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a ``.safetensors`` file or a PyTorch state dict, on the CPU, as stored; run no code.

    Where somebody has read the file already, its bytes are ``data``. A training's checkpoint may hold the state dict
    under the key ``nested``, beside numbers and texts.

    Raises ``WeightsError`` when the file is cut or damaged, or holds anything but named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path) if data is None else load(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a pickle's version, which is refused or read either way
            state = torch.load(path if data is None else io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as any of IndexError, AssertionError, struct.error, UnpicklingError, ...
        # PyTorch's own text advises to switch the protection off.
        raise WeightsError(
            f"{path} is truncated, damaged, or holds more than tensors ({type(error).__name__}): download it again"
        ) from error
    if nested is not None and isinstance(state, dict) and isinstance(state.get(nested), dict):
        state = {key: value for key, value in state[nested].items() if isinstance(value, Tensor)}
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a plain state dict of tensors, found {type(state).__name__}")
    return state


def check_weights(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
    advice: str = "is it the file that is asked for, and whole?",
) -> None:
    """Raise ``WeightsError`` naming the first missing, extra or misshapen key, with the nearest expected one.

    ``advice`` ends the message where keys are missing or left over.
    """
    # A published tokenizer's VAE of these names has LoRA's too.
    if _has_ldm_names(found) and not _has_ldm_names(expected) and not any("lora" in key for key in found):
        advice = (
            "it has an LDM autoencoder's names, as FLUX's ae.safetensors has: that is a continuous VAE, and its "
            "diffusers folder becomes a tokenizer by coda train --vae"
        )
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    if extra:
        near = difflib.get_close_matches(extra[0], missing or list(expected), 1, cutoff=0)
        raise WeightsError(
            f"{source} has {len(extra)} unexpected keys, first {extra[0]!r}"
            + (f" (nearest expected: {near[0]!r})" if near else "")
            + (f", and lacks {len(missing)}, first {missing[0]!r}" if missing else "")
            + f": {advice}"
        )
    if missing:
        near = difflib.get_close_matches(missing[0], list(found), 1, cutoff=0)
        raise WeightsError(
            f"{source} lacks {count(len(missing), 'key')}, first {missing[0]!r}"
            + (f" (nearest found: {near[0]!r})" if near else "")
            + f": {advice}"
        )
    for key, tensor in found.items():
        if tensor.shape != expected[key].shape:
            raise WeightsError(
                f"{source}: {key!r} has shape {list(tensor.shape)}, expected {list(expected[key].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{source}: {key!r} holds NaN or infinite values: the training that made it diverged")


def _has_ldm_names(keys: Iterable[str]) -> bool:
    return any(_LDM.match(key) for key in keys)


def to_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Return the content of ``model.safetensors``."""
    return save({key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()})


def write_folder(
    out: Path,
    config: TokenizerConfig,
    weights: Mapping[str, Tensor],
    checkpoint: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> None:
    """Write a tokenizer folder beside ``out`` and move its files in when all are whole. Raises ``OutputError``."""
    with staged_folder(out) as folder:
        # Not save_file: it leaves a file that only its owner may read, and its errors hide the OSError.
        data = to_bytes(weights)
        (folder / WEIGHTS_NAME).write_bytes(data)
        _write_json(folder / CONFIG_NAME, config.to_json())
        if checkpoint is not None or origin is not None:
            digest = hashlib.sha256(data).hexdigest()
            vae = {} if origin is None else {"vae": origin.to_json()}
            _write_json(folder / PROVENANCE_NAME, {"weights_sha256": digest, "checkpoint": checkpoint or {}, **vae})
    if checkpoint is None and origin is None:
        (out / PROVENANCE_NAME).unlink(missing_ok=True)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
