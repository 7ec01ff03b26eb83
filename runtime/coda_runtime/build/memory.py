"""The device memory of each batch profile of an engine that is yet to be built, as far as its graph tells.

An engine's input and output are known to the byte. What it works in besides is the library's choice: the tactics, what
is fused, and which tensors share memory. Neither library tells it before the engine is built and loaded on its GPU,
where the builder asks it (`EngineFacts.scratch_bytes`). Before that there is the graph: its tensors, each kept from
the layer that makes it to the last one that reads it, are what an engine without any fusion would hold at once.
"""

from __future__ import annotations

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
    before the library fuses layers or adds the workspace of a tactic; None where shapes depend on more than the batch.
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
    ends = [network.get_input(index) for index in range(network.num_inputs)]
    ends += [network.get_output(index) for index in range(network.num_outputs)]
    sizes = [_Size.of(tensor) for tensor in ends]
    steps = _live(network, {tensor.name for tensor in ends})
    out = []
    for profile in profiles:
        count = profile[2]
        io_bytes = sum(size.at(count) for size in sizes if size is not None)
        activations = None if steps is None else max((step.at(count) for step in steps), default=0)
        out.append(ProfileMemory(profile, io_bytes, activations))
    return tuple(out)


@dataclass(frozen=True)
class _Size:
    """Bytes that grow with the batch, and those that do not."""

    per_image: int = 0
    fixed: int = 0

    @classmethod
    def of(cls, tensor: Any) -> _Size | None:
        """Return a tensor's, None where another dimension than the first is not known."""
        try:
            first, *rest = tuple(tensor.shape) or (1,)
        except ValueError:  # not even the number of dimensions
            return None
        if min(rest, default=1) < 0:
            return None
        nbytes = math.ceil(math.prod(rest) * tensor.dtype.itemsize)
        return cls(per_image=nbytes) if first < 0 else cls(fixed=first * nbytes)

    def __add__(self, other: _Size) -> _Size:
        return _Size(self.per_image + other.per_image, self.fixed + other.fixed)

    def __sub__(self, other: _Size) -> _Size:
        return _Size(self.per_image - other.per_image, self.fixed - other.fixed)

    def at(self, count: int) -> int:
        """Return the bytes for a batch of `count`."""
        return count * self.per_image + self.fixed


def _live(network: Any, apart: set[str]) -> list[_Size] | None:
    """Return what is live while each layer runs, without weights and the tensors in `apart`; None if it is not told."""
    made: dict[str, tuple[int, _Size]] = {}
    last: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for place in range(layer.num_inputs):
            tensor = layer.get_input(place)
            if tensor is not None:  # an optional one
                last[tensor.name] = index
        for place in range(layer.num_outputs if layer.type.name != "CONSTANT" else 0):
            tensor = layer.get_output(place)
            size = _Size.of(tensor)
            if size is None:
                return None
            if tensor.name not in apart:
                made[tensor.name] = index, size
    new: dict[int, list[_Size]] = {}
    gone: dict[int, list[_Size]] = {}
    for name, (index, size) in made.items():
        new.setdefault(index, []).append(size)
        gone.setdefault(max(last.get(name, index), index), []).append(size)
    steps, live = [], _Size()
    for index in range(network.num_layers):
        for size in new.get(index, ()):
            live += size
        steps.append(live)
        for size in gone.get(index, ()):
            live -= size
    return steps
