"""What TensorRT-RTX's builder says of the engine that it made: its layers, and the memory that they work in.

The log at VERBOSE has them under "Engine Layer Information", in words that may change with a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), StreamId: ",
    re.MULTILINE,
)
_TENSOR = re.compile(
    r"\{ Name: (?P<Name>.*?), Dimensions: .*?, Datatype: (?P<Datatype>\w+), Format: (?P<Format>.*?) \}"
)


@dataclass(frozen=True)
class Layer:
    """A kernel of an engine, as the log describes it. `kind` is its LayerType. A tensor has Name, Datatype, Format.

    `steps` is what was fused in it, as the library abbreviates it: "SiluGnor", "" for what has a name of the graph's.
    """

    name: str
    kind: str
    inputs: tuple[dict[str, str], ...]
    outputs: tuple[dict[str, str], ...]

    @property
    def steps(self) -> str:
        """See the class."""
        found = re.match(r"__myl_([A-Za-z]+)_myl", self.name)
        return found[1] if found else ""

    def to_json(self) -> dict[str, Any]:
        """Return what the library's inspector says of a layer."""
        return {"Name": self.name, "LayerType": self.kind, "Inputs": [*self.inputs], "Outputs": [*self.outputs]}


def layers_of(log: str) -> list[Layer]:
    """Return the layers that a log tells of. Raises ValueError where it tells of none."""
    found = [
        Layer(told["name"], told["kind"], _tensors(told["inputs"]), _tensors(told["outputs"]))
        for told in _LAYER.finditer(log)
    ]
    if not found:
        raise ValueError("the builder's log has no layers in the form that TensorRT-RTX 1.7 writes")
    return found


def _tensors(text: str) -> tuple[dict[str, str], ...]:
    return tuple(found.groupdict() for found in _TENSOR.finditer(text))


def formats(layers: Iterable[Layer], kinds: tuple[str, ...]) -> dict[str, int]:
    """Count the formats, as "NHWC", of the first inputs of layers of these kinds."""
    counts: dict[str, int] = {}
    for layer in layers:
        if layer.kind in kinds and layer.inputs:
            name = re.sub(r"^\((\w+)\).*", r"\1", layer.inputs[0]["Format"])
            counts[name] = counts.get(name, 0) + 1
    return counts
