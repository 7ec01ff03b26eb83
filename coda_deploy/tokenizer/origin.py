"""Which VAE a tokenizer began as, and whether its encoder and decoder still compute what that VAE's did.

Who generates latents with a diffusion model of the same VAE may decode them with the tokenizer's decoder only if it is
still the VAE's: without LoRA, and in the basis that the VAE has.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coda_deploy.families import Family
from coda_deploy.tokenizer.lora import branch, lora_layers
from coda_runtime.format.vae_record import ADAPTED, OTHER, UNCHANGED

_PARTS = {"encoder": ("encoder.", "quant_conv."), "decoder": ("decoder.", "post_quant_conv.")}
_LORA = re.compile(r"\.lora_[A-Za-z_]+\.")


@dataclass(frozen=True)
class Origin:
    """``class_name`` as config.json names it, ``source`` a folder's name or a hub id, or None for a module in memory.

    ``statistics`` says where the latent's scale and shift came from. ``encoder_sha256`` and ``decoder_sha256`` are of
    the VAE's tensors before anything was adapted; None where a module has no such parts.
    """

    class_name: str
    source: str | None
    statistics: str
    encoder_sha256: str | None = None
    decoder_sha256: str | None = None

    @classmethod
    def of(cls, vae: nn.Module, family: Family, source: str | None, statistics: str) -> Origin:
        """Describe a VAE that nothing was added to."""
        digests = {f"{part}_sha256": _digest(vae, part) for part in _PARTS}
        return cls(family.class_name, source, statistics, **digests)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``from_json`` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Origin:
        """Read an object, without keys of later versions. Raises ``TypeError`` or ``ValueError`` for another one."""
        known = {name: data.get(name) for name in cls.__dataclass_fields__}
        if not all(isinstance(known[name], str) for name in ("class_name", "statistics")):
            raise ValueError("vae names no class, or not where its statistics are from")
        if not all(value is None or isinstance(value, str) for value in known.values()):
            raise ValueError("vae has a value that is not a text")
        return cls(**known)  # type: ignore[arg-type]


def source_name(where: str | os.PathLike[str]) -> str:
    """Return how a source is recorded: a hub id as it is, of a path the last name, since bundles are published."""
    path = Path(where)
    name = path.resolve().name if path.exists() else os.fspath(where)
    return name.encode(errors="replace").decode()


def compare(vae: nn.Module, origin: Origin | None) -> dict[str, str | None]:
    """Return what became of encoder and decoder, in words of `coda_runtime.format.vae_record`; None where not known."""
    return {part: _compare(vae, part, origin) for part in _PARTS}


def _compare(vae: nn.Module, part: str, origin: Origin | None) -> str | None:
    if any(name.startswith(_PARTS[part]) and bool(branch(layer)[1].any()) for name, layer in lora_layers(vae).items()):
        return ADAPTED
    before = None if origin is None else getattr(origin, f"{part}_sha256")
    if before is None:
        return None
    return UNCHANGED if _digest(vae, part) == before else OTHER


@torch.no_grad()
def _digest(vae: nn.Module, part: str) -> str | None:
    """Hash the tensors of a part, LoRA's left out, as they are without LoRA."""
    found: dict[str, Tensor] = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in vae.state_dict().items()
        if name.startswith(_PARTS[part]) and not _LORA.search(name)
    }
    if not found:
        return None
    digest = hashlib.sha256()
    for name in sorted(found):
        tensor = found[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
