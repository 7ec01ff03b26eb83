"""What is evaluated: a tokenizer in PyTorch or a bundle under the runtime, behind one interface."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

import coda_runtime
from coda_deploy.evaluate.devices import threads_of_quota, to_tensor, torch_device, torch_threads
from coda_deploy.float32 import full_float32
from coda_deploy.tokenizer import storage
from coda_deploy.tokenizer.lora import without_lora
from coda_deploy.tokenizer.model import CodaTokenizer
from coda_deploy.tokenizer.pixels import to_pixels
from coda_deploy.tokenizer.source import has_scheme
from coda_runtime.backends.base import AllOptions, LoadOptions
from coda_runtime.errors import DeviceError, InputError
from coda_runtime.format.manifest import MANIFEST_NAME
from coda_runtime.format.parts import DECODER
from coda_runtime.format.precision import FP32
from coda_runtime.format.spec import Spec
from coda_runtime.hub_source import find_bundle
from coda_runtime.io.user_folders import expand_home
from coda_runtime.loading import open_tokenizer

Pixels = NDArray[np.uint8]
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class About:
    """What runs where: ``path`` as it was given, ``kind`` is "tokenizer" or "bundle", ``backend`` "torch" or other."""

    path: str
    kind: str
    precision: str
    backend: str
    device: str

    def to_json(self) -> dict[str, str]:
        """Return the same as a JSON object."""
        return asdict(self)


class Target(Protocol):
    """A tokenizer to evaluate. Images are uint8 [B, S, S, 3], ids int32 [B, L]; a context manager."""

    spec: Spec
    name: str
    about: About

    def encode(self, images: Pixels) -> Ids:
        """Turn images into ids."""
        ...

    def decode(self, ids: Ids) -> Pixels:
        """Turn ids into images."""
        ...

    def continuous(self, images: Pixels) -> Pixels | None:
        """Pass images through the VAE alone, without quantizer and LoRA; None where that VAE is not at hand."""
        return None

    def close(self) -> None:
        """Free what it holds; it is not used again."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TokenizerTarget(Target):
    """A tokenizer in PyTorch: unfolded, float32, the posterior's mode."""

    def __init__(self, where: Path | str, name: str, device: torch.device, threads: int | None) -> None:
        """Load the tokenizer; raises what ``CodaTokenizer.from_pretrained`` does."""
        self._tokenizer = CodaTokenizer.from_pretrained(where).to(device)
        self.spec, self.name = self._tokenizer.spec, name
        self.about = About(name, "tokenizer", FP32, "torch", str(device))
        self._device = device
        self._settings = ExitStack()
        self._settings.enter_context(full_float32())
        self._settings.enter_context(threads_of_quota() if threads is None else torch_threads(threads))

    def encode(self, images: Pixels) -> Ids:
        """Turn images into ids."""
        with _run():
            return np.asarray(self._tokenizer.encode(to_tensor(images, self._device)).cpu().numpy(), np.int32)

    def decode(self, ids: Ids) -> Pixels:
        """Turn ids into images."""
        with _run():
            return _pixels(self._tokenizer.decode(to_tensor(ids, self._device)))

    def continuous(self, images: Pixels) -> Pixels:
        """Pass images through the VAE that the tokenizer was adapted from; through its own if LoRA was merged."""
        with without_lora(self._tokenizer.vae), _run():
            latent = self._tokenizer.encode_latent(to_tensor(images, self._device))
            return _pixels(self._tokenizer.decode_latent(latent))

    def close(self) -> None:
        """Give PyTorch its settings back."""
        self._settings.close()


class BundleTarget(Target):
    """A bundle under coda_runtime."""

    def __init__(self, tokenizer: coda_runtime.Tokenizer, name: str) -> None:
        self._tokenizer = tokenizer
        self.spec, self.name = tokenizer.spec, name
        parts = tokenizer.artifacts
        # The quantizer is float32 in every bundle: the precision asked for is the other two's.
        precision = next(part.precision for part in parts if part.part == DECODER.name)
        backend, device = (
            ", ".join(dict.fromkeys(of)) for of in zip(*((p.backend, p.device) for p in parts), strict=True)
        )
        self.about = About(name, "bundle", precision, backend, device)

    def encode(self, images: Pixels) -> Ids:
        """Turn images into ids."""
        return self._tokenizer.encode(images)

    def decode(self, ids: Ids) -> Pixels:
        """Turn ids into images."""
        return self._tokenizer.decode(ids)

    def close(self) -> None:
        """Free the engines."""
        self._tokenizer.close()


def open_target(path: str | os.PathLike[str], **options: Unpack[AllOptions]) -> Target:
    """Load a tokenizer's folder (it has config.json) or a bundle's (manifest.json), or either by its hub id.

    ``official:VARIANT`` is a tokenizer: the published checkpoint.

    ``options`` are the fields of ``LoadOptions``. A tokenizer runs in PyTorch in fp32, without TF32 for as long as it
    is open: ``device`` and ``threads`` are for it too, the others say which files of a bundle are loaded, and how.

    Raises ``InputError`` where there is neither, and what ``CodaTokenizer.from_pretrained`` and ``coda_runtime.load``
    raise; ``DeviceError`` for a GPU that is not there.
    """
    given = LoadOptions(**options)
    location, kind = (os.fspath(path), "tokenizer") if has_scheme(path) else _find(path)
    if kind == "bundle":
        return BundleTarget(open_tokenizer(location, given), os.fspath(path))
    _check_for_tokenizer(path, given)
    return TokenizerTarget(location, os.fspath(path), torch_device(given.device), given.threads)


def _check_for_tokenizer(path: str | os.PathLike[str], options: LoadOptions) -> None:
    """Raise InputError for what only a bundle can be told."""
    if options.reproducible:  # it stands for a backend, which is not what was asked for
        raise InputError(
            f"reproducible ids are a bundle's, and {path} is a tokenizer, which runs in PyTorch: export it with coda "
            "export, and evaluate the bundle"
        )
    own = {"precision": FP32, "backend": "torch"}
    for option in fields(options):
        name, value = option.name, getattr(options, option.name)
        if name in ("device", "threads", "color") or value in (option.default, own.get(name, option.default)):
            continue
        alone = f"only runs as {own[name]!r}" if name in own else "runs in PyTorch and has no such option"
        raise InputError(
            f"{name} is {value!r}, and {path} is a tokenizer, which {alone}: "
            "export it with coda export, and evaluate the bundle"
        )


def _find(where: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the local folder, and "tokenizer" or "bundle"."""
    path = expand_home(where)
    if path.exists() or path.parent.exists() or not (isinstance(where, str) and storage.is_hub_id(where)):
        if not path.is_dir():
            found = "is a file" if path.exists() else "does not exist"
            raise InputError(
                f"{path} {found}: give the folder of a tokenizer or of a bundle, or a hub id like owner/name"
            )
        kind = _kind(path)
    else:
        # Two files first: what a bundle holds besides may be large, and a tokenizer needs none of it.
        path = storage.locate(where)
        kind = _kind(path)
        if kind != "tokenizer":
            path = find_bundle(where)
            kind = _kind(path)
    if kind is None:
        inside = (
            sorted(child.name for child in path.iterdir() if child.is_dir() and _kind(child)) if path.is_dir() else []
        )
        raise InputError(
            f"{where} is neither a tokenizer (it has no {storage.CONFIG_NAME}) nor a bundle (no {MANIFEST_NAME})"
            + (f": name {' or '.join(inside)} inside it" if inside else ": give the folder of one")
        )
    return path, kind


def _kind(folder: Path) -> str | None:
    # A folder may hold both, as a hub's repository may: the bundle was made of the tokenizer.
    if (folder / storage.CONFIG_NAME).is_file():
        return "tokenizer"
    return "bundle" if (folder / MANIFEST_NAME).is_file() else None


@contextmanager
def _run() -> Iterator[None]:
    """Run without gradients; raise ``DeviceError`` where the GPU's memory is full."""
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise DeviceError("the GPU ran out of memory on this batch: use a smaller --batch") from error


def _pixels(images: torch.Tensor) -> Pixels:
    return np.asarray(to_pixels(images).cpu().numpy(), np.uint8)
