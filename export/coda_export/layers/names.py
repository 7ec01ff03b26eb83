"""The layers of an encoder's or decoder's graph, by the path of the module in the VAE that each was.

The exporter keeps the names of weights, which tell convolutions and projections. A normalisation's weights are folded
into constants without a name, so it is known by what reads it, and a block by the sum at its end. A quantised graph
has the same names, with QuantizeLinear and DequantizeLinear between, and after a convolution its channels' sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from coda_export.int8.layers import DEQUANTIZE, QUANTIZE
from coda_export.layers.graph import Graph

# The normalisation before a convolution or a projection, in diffusers' blocks.
_NORM_OF = {"conv1": "norm1", "conv2": "norm2", "conv_out": "conv_norm_out"} | dict.fromkeys(
    ("to_q", "to_k", "to_v"), "group_norm"
)
# What a block's last layer is called: the block is the sum of its output and what it was given.
_LAST = (".conv2", ".to_out.0")
_MOVES = frozenset({"Cast", "Concat", "Identity", "Reshape", "Transpose", "Unsqueeze", QUANTIZE, DEQUANTIZE})
"""Operators that change no value, or only round it."""
_SUB_PIXEL = ".weights."
_JOINED = (["encoder"], ["decoder"], ["post_quant_conv"])
"""What a part is joined of where it is more than one module: each has the name that it has in the VAE."""
PIXELS, EMBEDDED = "pixels", "embedded"


@dataclass(frozen=True)
class Layer:
    """A layer: its ``path``, the ``tensor`` that is its output, that one's shape for one image, and whose it reads."""

    path: str
    tensor: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...] = ()


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """Return the layers of a part's graph in its order; empty for a graph without convolutions."""
    graph = Graph(model)
    found: dict[str, str] = {}
    for tensor, path in _named(graph):
        found.setdefault(path, graph.dequantized(tensor))
    order = {name: index for index, node in enumerate(graph.nodes) for name in node.output}
    layers = []
    for path, tensor in found.items():
        shape = graph.shape(tensor)
        if shape is not None:
            layers.append(Layer(path, tensor, shape))
    return with_inputs(graph, sorted(layers, key=lambda layer: order[layer.tensor]))


def with_inputs(graph: Graph, layers: list[Layer]) -> list[Layer]:
    """Return the layers with the paths of the nearest ones among them that each reads."""
    path_of = {name: layer.path for layer in layers for name in graph.copies(layer.tensor)}
    place = {layer.path: index for index, layer in enumerate(layers)}
    return [
        dataclasses.replace(layer, inputs=tuple(sorted(_read(graph, layer, path_of), key=place.__getitem__)))
        for layer in layers
    ]


def _read(graph: Graph, layer: Layer, path_of: dict[str, str]) -> set[str]:
    others = {name for name, path in path_of.items() if path != layer.path}
    read = {name for node in graph.before([layer.tensor], others) for name in node.input}
    return {path_of[name] for name in read & others}


def _named(graph: Graph) -> Iterator[tuple[str, str]]:
    """Yield (tensor, path of its layer); a path may come twice, and then the first counts."""
    paths: dict[str, str] = {}
    for node in graph.nodes:
        path = _weighted(graph, node)
        if path is not None:
            paths[graph.dequantized(node.output[0])] = path
    first = next((node for node in graph.nodes if node.op_type == "Conv"), None)
    if first is not None:
        yield first.input[0], EMBEDDED if _is_ids(graph) else PIXELS
    yield from paths.items()
    for node in graph.nodes:
        norm = _norm(graph, node, paths)
        if norm is not None:
            yield node.output[0], norm
        block = _block(graph, node, paths)
        if block is not None:
            yield node.output[0], block
    yield from _upsamplers(graph, paths)
    if not any(graph.output in graph.copies(graph.dequantized(tensor)) for tensor in paths):
        yield graph.output, graph.output


def _is_ids(graph: Graph) -> bool:
    return graph.element_type(graph.input) == onnx.TensorProto.INT32


def module_path(parameter: str) -> str:
    """Return the VAE's name of the module that a parameter of a folded one belongs to."""
    path = parameter.removesuffix("_quantized")
    for end in (".weight", ".bias"):
        path = path.removesuffix(end)
    words = [word for word in path.split(".") if word != "inner"]  # around what computes in another type
    if words[:2] == ["decoder", "0"]:  # bundles of before 1.9 number what they join
        return "post_quant_conv"
    if words[:2] == ["decoder", "1"]:
        return ".".join(["decoder", *words[2:]])
    return ".".join(words[1:] if words[1:2] in _JOINED else words)


def _weighted(graph: Graph, node: NodeProto) -> str | None:
    """Return the path of a convolution, a projection or a whole normalisation."""
    if node.op_type == "Conv" or node.op_type == "GroupNormalization":
        stored = graph.stored(node.input[1])
    elif node.op_type == "Add":
        stored = next((name for name in node.input if name in graph.constants and name.endswith(".bias")), None)
    else:
        return None
    return None if stored is None or "." not in stored else module_path(stored)


def _norm(graph: Graph, node: NodeProto, paths: dict[str, str]) -> str | None:
    """Return the path of a normalisation that was taken apart, for its last operator: (x * weight) + bias."""
    if node.op_type != "Add" or not _scales(graph, node):
        return None
    scaled = next((graph.maker[name] for name in node.input if name in graph.maker), None)
    if scaled is None or scaled.op_type != "Mul" or not _scales(graph, scaled):
        return None
    shaped = next((graph.maker[name] for name in scaled.input if name in graph.maker), None)
    if shaped is None or shaped.op_type != "Reshape":
        return None
    normed = graph.maker.get(shaped.input[0])
    if normed is None or normed.op_type != "InstanceNormalization":
        return None
    reader = _first_reader(graph, node.output[0], paths)
    parent, _, leaf = (reader or "").rpartition(".")
    return f"{parent}.{_NORM_OF[leaf]}" if leaf in _NORM_OF else None


def _scales(graph: Graph, node: NodeProto) -> bool:
    return sum(graph.stored(name) is not None for name in node.input) == 1


def _first_reader(graph: Graph, tensor: str, paths: dict[str, str]) -> str | None:
    """Return the path of the next layer with weights that reads a tensor."""
    waiting, seen = [tensor], set[str]()
    while waiting:
        name = waiting.pop(0)
        for node in graph.readers[name]:
            for output in node.output:
                if output in paths:
                    return paths[output]
                if output not in seen:
                    seen.add(output)
                    waiting.append(output)
    return None


def _block(graph: Graph, node: NodeProto, paths: dict[str, str]) -> str | None:
    """Return the path of the block that a sum is the end of: of what its last layer gives and what it was given."""
    if node.op_type != "Add" or any(graph.stored(name) is not None for name in node.input):
        return None
    for name in node.input:
        path = paths.get(_moved_from(graph, name, paths))
        for end in _LAST:
            if path is not None and path.endswith(end):
                return path.removesuffix(end)
    return None


def _moved_from(graph: Graph, tensor: str, paths: dict[str, str]) -> str:
    """Return the tensor whose values, moved or rounded, are these."""
    while tensor not in paths and (node := graph.maker.get(tensor)) is not None and node.op_type in _MOVES:
        tensor = node.input[0]
    return tensor


def _upsamplers(graph: Graph, paths: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the images that four convolutions of a small one are interleaved to."""
    parts: dict[str, frozenset[str]] = {t: frozenset([p]) for t, p in paths.items() if _SUB_PIXEL in p}
    done: set[str] = set()
    for node in graph.nodes:
        if node.op_type not in _MOVES or node.output[0] in parts:
            continue
        held = frozenset[str]().union(*(parts.get(name, frozenset()) for name in node.input))
        if not held:
            continue
        parts[node.output[0]] = held
        path = next(iter(held)).partition(_SUB_PIXEL)[0]
        small = next(graph.shape(name) for name, found in parts.items() if found <= held and name in paths)
        shape = graph.shape(node.output[0])
        if len(held) == 4 and path not in done and shape and small and len(shape) == 4 and shape[3] == 2 * small[3]:
            done.add(path)
            yield node.output[0], path
