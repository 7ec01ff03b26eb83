"""The tokenizers that are measured, by the name of their shape: two published ones with random weights, the sample."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coda_deploy import CodaTokenizer, photographs
from coda_deploy.sample import tokenizer_path
from coda_deploy.tokenizer.variants import VARIANTS
from coda_runtime.format.sizes import Size
from coda_runtime.images import fit
from tests import tiny_tokenizers

SHAPES = ("sample", "tiny", *VARIANTS)


def make_tokenizer(shape: str) -> CodaTokenizer:
    """The sample as it is, or a shape with random weights: the same in every process of one PyTorch.

    "tiny" is that of the tests, which proves the flow in seconds and is no measurement.
    """
    if shape == "sample":
        return CodaTokenizer.from_pretrained(tokenizer_path())
    if shape == "tiny":
        return tiny_tokenizers.make()
    torch.manual_seed(0)
    tokenizer = CodaTokenizer(VARIANTS[shape]).eval()
    with torch.no_grad():
        for name, parameter in tokenizer.vae.named_parameters():
            # Scaled by fan-in, so that latents and images vary as those of a trained one do.
            if parameter.ndim > 1:
                gain = 0.1 if "lora_B" in name else 1.0
                parameter.normal_(0, gain / math.sqrt(math.prod(parameter.shape[1:])))
    return tokenizer


def images(size: Size) -> NDArray[np.uint8]:
    """The shipped photographs by the official crop, uint8 [8, size, size, 3]."""
    return np.stack([fit(path, size) for path in photographs.paths()])


def check(shapes: list[str]) -> None:
    """Leave with a sentence for an unknown shape."""
    unknown = [shape for shape in shapes if shape not in SHAPES]
    if unknown:
        raise SystemExit(f"there is no shape {', '.join(unknown)}; expected some of {', '.join(SHAPES)}")


def folder(work: Path, shape: str) -> Path:
    """Where all that belongs to a shape lies."""
    return work / shape
