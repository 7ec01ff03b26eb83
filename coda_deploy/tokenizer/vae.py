"""The continuous VAE that a tokenizer is adapted from: one of diffusers, from a folder or the hub, or your own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from coda_deploy.errors import ConfigError
from coda_deploy.families import CLASS, FAMILIES, REFUSED, Shape, named
from coda_deploy.tokenizer.python_module import call_python, is_python
from coda_deploy.tokenizer.storage import is_hub_id
from coda_runtime.errors import one_line
from coda_runtime.format.precision import PRECISIONS
from coda_runtime.format.sizes import Size, shape_of
from coda_runtime.io.counts import count
from coda_runtime.io.json_fields import parse_json

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Say = Callable[[str], None]
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_PIPELINE = "vae"
"""Where diffusers' pipelines have their VAE."""


def load_vae(where: str | os.PathLike[str], say: Say = lambda text: None) -> nn.Module:
    """Load a VAE in float32, in evaluation.

    ``where`` is a folder that diffusers wrote, a hub id, ``owner/name`` or ``owner/name:subfolder``, either of a whole
    pipeline too, or ``python:MODULE:FUNCTION``, which imports the module and calls the function that makes one. Weights
    are taken from safetensors first, then from .bin files, without running code of theirs. ``say`` is told what was
    found in another place, or in another file, than expected. Raises ``ConfigError`` naming what was found instead.
    """
    if is_python(where):
        return call_python(str(where))
    folder = Path(where)
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: expected a folder that save_pretrained of a diffusers VAE wrote")
    if folder.is_dir():
        return _from_folder(_find_folder(folder, say), str(where), say)
    name, _, subfolder = str(where).partition(":")
    if not is_hub_id(name):
        raise ConfigError(f"there is no VAE at {where}: give an existing folder, or a hub id like owner/name")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the hub's library, about how diffusers calls it
            return _from_hub(name, subfolder, str(where), say)
    except ConfigError:
        raise
    except Exception as error:  # the hub's, requests' and diffusers' own, without a common root
        raise ConfigError(
            f"{where} is not a local folder, and no diffusers VAE could be loaded from the hub "
            f"({one_line(error, named=True, line=0)}); check the name (a pipeline's VAE is owner/name:vae), "
            f"the network and a gated model's licence; the weights must be in {WEIGHTS_NAME} or its .bin"
        ) from error


def load_kl(where: str | os.PathLike[str]) -> AutoencoderKL:
    """Load an AutoencoderKL as `load_vae` does. Raises ``ConfigError`` for a VAE of another class."""
    from diffusers import AutoencoderKL

    vae = load_vae(where)
    if not isinstance(vae, AutoencoderKL):
        raise ConfigError(f"{where} holds a {type(vae).__name__}, expected a diffusers {AutoencoderKL.__name__}")
    return vae


def check_finite(vae: nn.Module, asked: str) -> None:
    """Raise ``ConfigError`` naming the first tensor that holds NaN or infinite values."""
    for name, tensor in vae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(
                f"the weights of {asked} hold NaN or infinite values, first in {name!r}: the training that made them "
                "diverged, or they overflowed in half precision; take others"
            )


@torch.no_grad()
def check_user_module(vae: nn.Module, shape: Shape, image_size: Size) -> None:
    """Encode and decode one grey image. Raises ``ConfigError`` where a shape is another than the module says."""
    module, kind = cast(Any, vae), type(vae).__name__
    was_training, like = vae.training, next(vae.parameters(), torch.zeros(()))
    vae.eval()
    try:
        latent_sides = [side // shape.downsample or 1 for side in shape_of(image_size)]
        sides = [side * shape.downsample for side in latent_sides]
        pixels = torch.zeros(1, 3, *sides, dtype=like.dtype, device=like.device)
        expected = (1, shape.channels, *latent_sides)
        latent = module.encode(pixels)
        _check_shape(f"{kind}.encode", latent, expected, "latent_channels and downsample say so")
        _check_shape(f"{kind}.decode", module.decode(latent), tuple(pixels.shape), "one image, not a video")
        if not torch.equal(module.encode(pixels), latent):
            raise ConfigError(
                f"{kind}.encode gives another latent each time: give the posterior's mean, so that an image has one "
                "sequence of tokens"
            )
    finally:
        vae.train(was_training)


def _check_shape(what: str, found: object, expected: tuple[int, ...], why: str) -> None:
    if not isinstance(found, torch.Tensor):
        raise ConfigError(f"{what} gives {type(found).__name__}, expected a tensor {list(expected)}")
    if tuple(found.shape) != expected:
        raise ConfigError(f"{what} gives a tensor {list(found.shape)}, expected {list(expected)}: {why}")


def _find_folder(folder: Path, say: Say) -> Path:
    """Return the folder with the VAE's configuration: this one, or in a pipeline's the one that has a VAE's."""
    if (folder / CONFIG_NAME).is_file():
        return folder
    inside = [folder / _PIPELINE, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    for path in inside:
        kind = _class_in(path)
        if kind in FAMILIES or kind in REFUSED or (kind and path.name == _PIPELINE):
            say(f"{folder} is a whole pipeline; its VAE is in {path}")
            return path
    return folder / _PIPELINE


def _class_in(folder: Path) -> str | None:
    try:
        found = parse_json((folder / CONFIG_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    kind = found.get(CLASS) if isinstance(found, dict) else None
    return kind if isinstance(kind, str) else None


def _from_folder(folder: Path, asked: str, say: Say) -> nn.Module:
    try:
        settings = _load_config(folder, local_files_only=True)
    except Exception as error:  # diffusers' OSError and whatever a foreign file brings
        raise ConfigError(f"{asked} holds no diffusers VAE: it has no readable {CONFIG_NAME}") from error
    kind = _checked_class(settings, asked)
    how = _find_weights(folder, asked, say)
    try:
        return _load(kind, folder, asked, local_files_only=True, **how)
    except ConfigError:
        raise
    except Exception as error:  # a cut file, a misshapen tensor: safetensors', diffusers' and torch's own errors
        raise ConfigError(
            f"the {kind} in {asked} cannot be read ({one_line(error, named=True, line=0)}); "
            f"copy its {CONFIG_NAME} and its weights again from where they were saved together"
        ) from error


def _from_hub(name: str, subfolder: str, asked: str, say: Say) -> nn.Module:
    try:
        settings = _load_config(name, subfolder=subfolder or None)
    except Exception:
        if subfolder:
            raise
        settings = _load_config(name, subfolder=_PIPELINE)
        subfolder = _PIPELINE
        say(f"{name} is a whole pipeline; its VAE is {name}:{subfolder}")
    kind = _checked_class(settings, asked)
    first: Exception | None = None
    for how in _ways():
        try:
            vae = _load(kind, name, asked, subfolder=subfolder or None, **how)
        except OSError as error:
            if "file named" not in str(error):
                raise
            first = first or error
            continue
        if how:
            say(f"{asked} has no {WEIGHTS_NAME}: read {_told(how)}, as float32")
        return vae
    raise cast(Exception, first)


def _ways() -> Iterator[dict[str, Any]]:
    """Yield how diffusers is asked for weights, from the best file to the last."""
    for use_safetensors in ({}, {"use_safetensors": False}):
        yield {**use_safetensors}
        for variant, known in PRECISIONS.items():
            if known.itemsize == 2:
                yield {"variant": variant, **use_safetensors}


def _told(how: dict[str, Any]) -> str:
    suffix = Path(WEIGHTS_NAME).suffix if how.get("use_safetensors", True) else ".bin"
    variant = f".{how['variant']}" if "variant" in how else ""
    return f"{Path(WEIGHTS_NAME).stem}{variant}{suffix}"


def _find_weights(folder: Path, asked: str, say: Say) -> dict[str, Any]:
    """Return how diffusers is asked for the folder's weights. Raises ``ConfigError`` where there are none."""
    if any((folder / f"{WEIGHTS_NAME}{end}").is_file() for end in ("", ".index.json")):
        return {}
    stem, suffix = Path(WEIGHTS_NAME).stem, Path(WEIGHTS_NAME).suffix
    # Names of variants begin with a letter, and .bin is for who has nothing else: it is read, and never run.
    for path in sorted(folder.glob(f"{stem}*"), key=lambda path: (path.suffix != suffix, len(path.name), path.name)):
        variant = path.name.removeprefix(stem).removesuffix(path.suffix).lstrip(".")
        if path.suffix not in (suffix, ".bin") or "-of-" in variant:
            continue
        how: dict[str, Any] = {"variant": variant} if variant else {}
        if path.suffix != suffix:
            how["use_safetensors"] = False
        say(f"{asked} has no {WEIGHTS_NAME}: read {path.name}, as float32")
        return how
    raise ConfigError(
        f"{asked} has a {CONFIG_NAME} and no file named {WEIGHTS_NAME} found beside it; expected what diffusers' "
        "save_pretrained wrote: copy the weights there too"
    )


def _load_config(where: str | Path, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.load_config(where, **settings)  # a model's configuration, of whichever class


def _checked_class(settings: Any, asked: str) -> str:
    kind = settings.get(CLASS) if isinstance(settings, dict) else None
    if kind is None:
        raise ConfigError(f"{asked} holds a model of an unknown kind, expected a diffusers VAE")
    family = named(kind, f"the model in {asked}")
    family.check(settings)
    return family.class_name


def _load(kind: str, where: str | Path, asked: str, **settings: Any) -> nn.Module:
    import diffusers

    vae, info = getattr(diffusers, kind).from_pretrained(
        where, torch_dtype=torch.float32, output_loading_info=True, **{"use_safetensors": True, **settings}
    )
    # diffusers only warns of these, and leaves them without a value.
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"the weights of {asked} lack {count(len(missing), 'tensor')} that its {CONFIG_NAME} asks for, first "
            f"{missing[0]!r}: copy both again from where they were saved together"
        )
    check_finite(vae, asked)
    return cast(nn.Module, vae)
