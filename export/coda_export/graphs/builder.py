"""A few lines over onnx.helper: nodes that name their own outputs, and constants stored once however often used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Info = tuple[str, int, Sequence[int | str | None]]


class GraphBuilder:
    """Collects nodes and initializers; ``model`` closes the graph and checks it."""

    def __init__(self, prefix: str = "") -> None:
        """``prefix`` sets the names of a subgraph's nodes apart from those around it."""
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._count = 0

    def constant(self, array: NDArray[np.generic] | Sequence[int] | int, name: str = "const") -> str:
        """Return the name of an initializer with this content; equal contents share one. Lists of int become int64."""
        value = np.ascontiguousarray(np.asarray(array) if isinstance(array, np.ndarray) else np.array(array, np.int64))
        value = value.reshape(np.shape(array))
        digest = hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).hexdigest()[:12]
        key = f"{name}_{digest}"
        if key not in self.initializers:
            self.initializers[key] = numpy_helper.from_array(value, key)
        return key

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        self._count += 1
        output = name or f"{op.lower()}_{self._count}"
        self._append(op, inputs, [output], attributes)
        return output

    def nodes_of(self, op: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        self._count += 1
        names = [f"{op.lower()}_{self._count}_{index}" for index in range(outputs)]
        self._append(op, inputs, names, attributes)
        return names

    def _append(self, op: str, inputs: Sequence[str], outputs: list[str], attributes: dict[str, Any]) -> None:
        self.nodes.append(
            helper.make_node(op, list(inputs), outputs, name=f"{self.prefix}{op}_{self._count}", **attributes)
        )

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape: 0 keeps a dimension, one -1 is inferred."""
        return self.node("Reshape", value, self.constant(list(shape), "shape"))

    def graph(self, name: str, inputs: Sequence[Info], outputs: Sequence[Info]) -> onnx.GraphProto:
        """Return the graph as it stands."""
        return helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*info) for info in inputs],
            [helper.make_tensor_value_info(*info) for info in outputs],
            list(self.initializers.values()),
        )

    def model(self, name: str, inputs: Sequence[Info], outputs: Sequence[Info], opset: int) -> onnx.ModelProto:
        """Return a checked model."""
        model = helper.make_model(
            self.graph(name, inputs, outputs),
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=10,
            producer_name="coda-export",
        )
        onnx.checker.check_model(model, full_check=True)
        return model
