"""The device memory of each batch profile of an engine that is yet to be built, as far as its graph tells.

An engine's input and output are known to the byte. What it works in besides is the library's choice: the tactics, what
is fused, and which tensors share memory. Neither library tells it before it has built: then its log does (`BuildLog`),
and later the engine itself, loaded on its GPU (`EngineFacts.scratch_bytes`). Before that there is the graph: its
tensors, each kept from the layer that makes it to the last that reads it, are what an engine without fusion would hold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.tensorrt.library import EngineLibrary
from ..format.profiles import Batch
from .builder import parse_network


@dataclass(frozen=True)
class ProfileMemory:
    """Bytes of one execution context at a profile's MAX.

    `io_bytes` are its input and output, `activation_bytes` an estimate of what it works in: of the graph as it stands,
    before the library fuses layers or adds the workspace of a tactic; None where shapes depend on what the images are.
    """

    profile: Batch
    io_bytes: int
    activation_bytes: int | None


@dataclass(frozen=True)
class PartMemory:
    """The profiles of one part's engine."""

    part: str
    precision: str
    profiles: tuple[ProfileMemory, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as an object of `coda build --json`."""
        profiles = [
            {"batch": list(of.profile), "io_bytes": of.io_bytes, "activation_bytes": of.activation_bytes}
            for of in self.profiles
        ]
        return {"part": self.part, "precision": self.precision, "profiles": profiles}


def estimate_memory(
    library: EngineLibrary, onnx: Path, data: bytes, profiles: Sequence[Batch]
) -> tuple[ProfileMemory, ...]:
    """Return the memory of each profile of an engine of an ONNX file, whose bytes are `data`. Raises BuildError."""
    parsed = parse_network(library, onnx, data)
    network = parsed.network
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    ends = [*inputs, *(network.get_output(index) for index in range(network.num_outputs))]
    out = []
    for profile in profiles:
        # With a batch that is fixed the library tells the shape of every tensor. This network is not built.
        for tensor in inputs:
            tensor.shape = (profile[2], *tuple(tensor.shape)[1:])
        io_bytes = sum(_nbytes(tensor) or 0 for tensor in ends)
        out.append(ProfileMemory(profile, io_bytes, _peak(network, {tensor.name for tensor in ends})))
    return tuple(out)


def _nbytes(tensor: Any) -> int | None:
    """Return a tensor's bytes, None where its shape is not known."""
    try:
        shape = tuple(tensor.shape)
    except ValueError:  # not even the number of dimensions
        return None
    return None if min(shape, default=0) < 0 else math.ceil(math.prod(shape) * tensor.dtype.itemsize)


def _peak(network: Any, apart: set[str]) -> int | None:
    """Return the most that is alive while a layer runs, without weights and the tensors in `apart`; None if unknown."""
    made: dict[str, tuple[int, int]] = {}
    last: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for place in range(layer.num_inputs):
            tensor = layer.get_input(place)
            if tensor is not None:  # an optional one
                last[tensor.name] = index
        for place in range(layer.num_outputs if layer.type.name != "CONSTANT" else 0):
            tensor = layer.get_output(place)
            size = _nbytes(tensor)
            if size is None:
                return None
            if tensor.name not in apart:
                made[tensor.name] = index, size
    changes = [0] * (network.num_layers + 1)
    for name, (index, size) in made.items():
        changes[index] += size
        changes[max(last.get(name, index), index) + 1] -= size
    return max(itertools.accumulate(changes))
