"""An ONNX graph by its tensors: who makes each, who reads it, and how large it is for one image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from functools import cached_property

import onnx
from onnx import NodeProto

from coda_export.int8.layers import DEQUANTIZE, QUANTIZE, scales_back


class Graph:
    """Reads a model; does not change it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker: dict[str, NodeProto] = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)

    @property
    def input(self) -> str:
        """The graph's one input."""
        return str(self.model.graph.input[0].name)

    @property
    def output(self) -> str:
        """The graph's one output."""
        return str(self.model.graph.output[0].name)

    @cached_property
    def _types(self) -> dict[str, onnx.TypeProto.Tensor]:
        graph = self.model.graph
        known = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.input, *graph.output)}
        made = [name for node in self.nodes for name in node.output]
        if any(name not in known for name in made):
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
            known |= {info.name: info.type.tensor_type for info in inferred.value_info if info.name not in known}
        return known

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Return a tensor's shape for a batch of one image, None where it is not known."""
        found = self._types.get(tensor)
        if found is None or not found.HasField("shape"):
            return None
        # The batch is the one dimension without a number; a product with it stands inside attention alone.
        symbols = [dim.HasField("dim_param") and dim.dim_param.isidentifier() for dim in found.shape.dim]
        dims = [1 if symbol else dim.dim_value for symbol, dim in zip(symbols, found.shape.dim, strict=True)]
        return tuple(dims) if all(dims) else None

    def element_type(self, tensor: str) -> int:
        """Return a tensor's element type, as onnx numbers them."""
        found = self._types.get(tensor)
        return onnx.TensorProto.FLOAT if found is None else int(found.elem_type)

    def stored(self, tensor: str) -> str | None:
        """Return the constant that a tensor is, or is dequantised from; None for what is computed."""
        if tensor in self.constants:
            return tensor
        maker = self.maker.get(tensor)
        if maker is not None and maker.op_type in (DEQUANTIZE, QUANTIZE, "Cast", "Identity", "Transpose"):
            return self.stored(maker.input[0])
        return None

    def dequantized(self, tensor: str) -> str:
        """Return what others read in a tensor's place: what its QuantizeLinear and DequantizeLinear leave of it.

        Where int8's channels were brought to one magnitude, that is what was taken back after them.
        """
        readers = self.readers[tensor]
        if readers and all(node.op_type == QUANTIZE and node.input[0] == tensor for node in readers):
            for reader in self.readers[readers[0].output[0]]:
                if reader.op_type == DEQUANTIZE:
                    after = self.readers[reader.output[0]]
                    return str(after[0].output[0] if after and scales_back(after[0]) else reader.output[0])
        return tensor

    def copies(self, tensor: str) -> set[str]:
        """Return the tensor, and where it is dequantised what was quantised and every other copy of that."""
        maker = self.maker.get(tensor)
        if maker is None or maker.op_type != DEQUANTIZE or maker.input[0] not in self.maker:
            return {tensor}
        base = self.maker[maker.input[0]].input[0]
        quantized = [node.output[0] for node in self.readers[base] if node.op_type == QUANTIZE]
        return {base} | {r.output[0] for name in quantized for r in self.readers[name] if r.op_type == DEQUANTIZE}

    def before(self, wanted: Iterable[str], stop: Set[str] = frozenset()) -> Iterator[NodeProto]:
        """Yield the nodes that make ``wanted``, backwards to the graph's input or to the tensors in ``stop``."""
        seen: set[int] = set()
        open_tensors = list(wanted)
        while open_tensors:
            name = open_tensors.pop()
            node = self.maker.get(name)
            if node is None or id(node) in seen or name in stop:
                continue
            seen.add(id(node))
            yield node
            open_tensors += [*node.input]
