"""Weights of published networks: a file that was named, `coda weights`' cache, PyTorch's, the Hub, an address."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from torch import nn

from coda_deploy.errors import WeightsError
from coda_deploy.weights.store import command_for, is_stored, path_of, read_stored
from coda_runtime.hub_source.answers import watching
from coda_runtime.hub_source.names import HubName
from coda_runtime.io.user_folders import expand_home

_MAX_WEIGHTS = 4 << 30  # bytes: the largest here are VGG-16's, half a gigabyte
_HASH = re.compile(r"-([0-9a-f]{8,})\.")  # PyTorch puts the first digits of the SHA-256 into its files' names


def find_weights(
    given: str | os.PathLike[str] | None,
    *,
    what: str,
    file: str,
    hub: tuple[str, str] | None,
    url: str | None,
    option: str,
    stored: str | None = None,
) -> Path:
    """Return the local file with the weights of ``what``, downloaded if it is nowhere.

    The order: ``given`` alone; what `coda weights` has put into its cache, which is checked against the published
    numbers; PyTorch's cache; the hub's cache and the hub; the address.

    Args:
        given: the user's own file, which is then the only place looked at.
        what: the network's name, for messages.
        file: its name in PyTorch's cache, ``torch.hub.get_dir()/checkpoints``; digits of its hash in it are checked.
        hub: a Hugging Face repository and the file in it, kept in the hub's cache.
        url: an address, asked when the hub does not deliver; the file is then kept in PyTorch's cache.
        option: how the user names ``given``, for messages.
        stored: its name in `coda_deploy.weights.PUBLISHED`, where `coda weights` has it.

    Raises:
        WeightsError: ``given`` is not a file, or none of the places has the weights; what `coda weights` stored was
            altered since.
    """
    if given is not None:
        path = expand_home(given)
        if not path.is_file():
            raise WeightsError(f"{option}: there is no file {path}; expected the weights of {what} ({file})")
        return path
    if stored is not None and is_stored(stored):
        read_stored(stored)
        return path_of(stored)
    cached = Path(torch.hub.get_dir(), "checkpoints", file)
    if cached.is_file():
        return cached
    sources: list[tuple[str, Callable[[], Path]]] = []
    if hub is not None:
        repo, name = hub
        sources.append((f"{repo} on the Hugging Face Hub", lambda: _from_hub(repo, name)))
    if url is not None:
        address = url
        sources.append((address, lambda: _download(address, cached)))
    failures: list[str] = []
    for source, fetch in sources:
        try:
            return fetch()
        except Exception as error:  # the network's, the disk's, the hub's own kinds: all mean that it is not there
            failures.append(f"{source} ({type(error).__name__})")
    tried = f", and could not be downloaded from {' nor from '.join(failures)}" if failures else ""
    if stored is not None:
        raise WeightsError(
            f"the weights of {what} are missing: neither {path_of(stored)} nor {cached} is there{tried}; run "
            f"`{command_for(stored)}`, which fetches them, or name the file with {option}"
        )
    origin = url or (f"https://huggingface.co/{hub[0]}/resolve/main/{hub[1]}" if hub else "where it is published")
    raise WeightsError(
        f"the weights of {what} are missing: {cached} is not there{tried}; download {origin} and put it there, "
        f"or name the file with {option}"
    )


def _from_hub(repo: str, file: str) -> Path:
    with watching(HubName(repo), _MAX_WEIGHTS):
        return Path(hf_hub_download(repo, file))


def _download(url: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    digits = _HASH.search(path.name)
    torch.hub.download_url_to_file(url, str(path), hash_prefix=digits.group(1) if digits else None)
    return path


def freeze(module: nn.Module) -> None:
    """Turn parameters into buffers that no state dict holds, and switch to evaluation, in place.

    What is left computes the same and moves with ``to``, and there is nothing to train and nothing to save.
    """
    for part in module.modules():
        tensors = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
        for name, tensor in tensors.items():
            delattr(part, name)
            part.register_buffer(name, tensor.detach(), persistent=False)
    module.eval()
