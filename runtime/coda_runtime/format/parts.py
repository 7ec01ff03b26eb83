"""The parts of a tokenizer: what each takes and gives, and which of them an operation runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .precision import FP32
from .spec import Spec


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a part: its name in the graph, its dtype, and its shape for a tokenizer."""

    name: str
    dtype: np.dtype[Any]
    row: Callable[[Spec], tuple[int, ...]]
    """The shape of what belongs to one image, without the batch."""

    def shape(self, spec: Spec, batch: int) -> tuple[int, ...]:
        """Return the shape of a batch."""
        return (batch, *self.row(spec))

    @property
    def datatype(self) -> str:
        """The dtype as the Open Inference Protocol names it, "UINT8", "INT32" or "FP32"."""
        name: str = self.dtype.name
        return "FP32" if name == "float32" else name.upper()


IMAGE = TensorSpec("image", np.dtype(np.uint8), lambda spec: (*spec.image_shape, 3))
LATENT = TensorSpec("latent", np.dtype(np.float32), lambda spec: (spec.latent_channels, *spec.latent_shape))
IDS = TensorSpec("ids", np.dtype(np.int32), lambda spec: (spec.num_tokens,))


@dataclass(frozen=True)
class Part:
    """One graph of a bundle, with one input and one output. `precision` is its only one, None where it has several."""

    name: str
    input: TensorSpec
    output: TensorSpec
    precision: str | None = None

    def precision_in(self, precision: str) -> str:
        """Return the precision that this part has in a tokenizer of `precision`."""
        return self.precision or precision


ENCODER = Part("encoder", IMAGE, LATENT)
# A near tie between two codes is decided by the last digits of float32.
QUANTIZER = Part("quantizer", LATENT, IDS, precision=FP32)
DECODER = Part("decoder", IDS, IMAGE)

PARTS: Mapping[str, Part] = {part.name: part for part in (ENCODER, QUANTIZER, DECODER)}
"""The three graphs that every bundle needs, by name, in the order of the data; `codebook` is optional."""

ENCODE = Part("encode", IMAGE, IDS)
"""Encoder and quantizer in one graph, for programs that run a bundle without this package. No operation runs it."""

GRAPHS: Mapping[str, Part] = {**PARTS, ENCODE.name: ENCODE}
"""Every graph that a bundle may hold."""

SEARCHING = (QUANTIZER.name, ENCODE.name)
"""The graphs that search the codes, in a loop that not every engine library has."""

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "encode": (ENCODER.name, QUANTIZER.name),
    "quantize": (QUANTIZER.name,),
    "decode": (DECODER.name,),
    "reconstruct": (ENCODER.name, QUANTIZER.name, DECODER.name),
}
"""The parts that each operation runs, in order; each takes what the one before it gives."""


def has_precisions(part: str) -> bool:
    """Return whether a part comes in several precisions. What is no graph does not."""
    return part in PARTS and PARTS[part].precision is None
