"""The golden cases of tests/data/golden: the reference implementation's outputs, and its synthetic weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data" / "golden"
VARIANTS = ("mar_v16384", "flux_v65536")
SEED = 1
Array = np.ndarray[Any, np.dtype[Any]]


def weight(key: str, shape: list[int], seed: int = SEED) -> Array:
    """The synthetic weight of an official key, float32."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    noise = rng.standard_normal(shape).astype(np.float32)
    if key == "codebooks.weight":
        return np.float32(0.2) * noise
    if key in ("attn.to_q.weight", "attn.to_k.weight"):
        shared = weight("attn.projection.weight", shape, seed)
        return (shared + 0.05 * noise / math.sqrt(shape[1])).astype(np.float32)
    if key == "attn.to_v.weight":
        return (0.5 * np.eye(*shape) + 0.05 * noise / math.sqrt(shape[1])).astype(np.float32)
    if key.startswith("attn.to_"):
        return np.float32(0.01) * noise
    if len(shape) > 1:
        up = 0.3 if "lora_layer.up" in key else 1.0
        return (up * noise / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
    return (1 + 0.05 * noise if key.endswith("weight") else 0.05 * noise).astype(np.float32)


def states(variant: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The official checkpoint, one file after the other: (file name, state dict)."""
    keys = json.loads((DATA / f"{variant}.json").read_text(encoding="utf-8"))
    for file, shapes in keys.items():
        yield file, {key: torch.from_numpy(weight(key, shape)) for key, shape in shapes.items()}


def write_checkpoint(variant: str, folder: Path) -> Path:
    """Write ``vae_ema.pth`` and ``quantizer_ema.pth``."""
    folder.mkdir(parents=True)
    for file, state in states(variant):
        torch.save(state, folder / file)
    return folder


class Golden:
    """What the reference implementation made of one variant's synthetic weights."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        with np.load(DATA / f"{variant}.npz") as data:
            self.latent = data["latent"]
            self.ids = data["ids"].astype(np.int32)
            self.image = data["image"]
            self.recon_sub = data["recon_sub"]
            self.scales = tuple(int(side) for side in data["scales"])
            self.vq_loss = float(data["vq_loss"])
            self.entropy_loss = float(data["entropy_loss"])
