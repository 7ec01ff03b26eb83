"""QuantizeLinear and DequantizeLinear in a float32 graph, around its convolutions, by onnxruntime's quantizer.

Weights get a scale for each output channel, activations one for the tensor; both are symmetric, and biases stay
float32: that is what TensorRT takes, so one graph serves every engine. The first convolutions, which read the image or
the codes, and the last, whose output is what a user gets, stay float32, and so do all products of matrices, attention's
scores among them: together they are a few percent of the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from coda_export.int8.layers import (
    CONVOLUTION,
    QUANTIZE,
    convolutions,
    equalise,
    equalised,
    layer_name,
    quantized_layers,
    write_shapes,
)
from coda_export.int8.ranges import check, measure
from coda_runtime.backends.onnxruntime.library import load_library, missing
from coda_runtime.errors import InputError, MissingDependencyError


def check_quantizer() -> None:
    """Raise ``MissingDependencyError`` where onnxruntime, whose quantizer makes int8 graphs, is not installed."""
    if missing() is not None:
        raise MissingDependencyError(
            "int8 graphs are made by onnxruntime's quantizer, and onnxruntime is not installed", extra="cpu"
        )


@dataclass(frozen=True)
class Ways:
    """How a graph is made int8; the defaults are what an export does, and benchmarks/bench_int8.py compares others.

    ``equalised``: channels are brought to one magnitude. ``float_ends``: the first convolutions and the last stay
    float32. ``per_channel``: a weight's scale is each output channel's own. ``share``: of the largest magnitude of what
    a convolution reads, what still has an integer. ``ends``: the magnitude itself, by the tensor's name, of those whose
    own is not to be measured.
    """

    equalised: bool = True
    float_ends: bool = True
    per_channel: bool = True
    share: float = 1.0
    ends: Mapping[str, float] = field(default_factory=dict)


def quantized_graph(model: onnx.ModelProto, inputs: NDArray[Any], ways: Ways = Ways()) -> onnx.ModelProto:
    """Return ``model``, a float32 graph of one input, with its convolutions in int8.

    ``inputs`` [N, ...] are what its scales are taken from: each activation's largest magnitude over all of them. The
    same model and inputs give the same bytes. ``model`` is not changed.

    Raises ``InputError`` where they give a layer no scale, and where there is no layer for one;
    ``MissingDependencyError`` without onnxruntime.
    """
    check_quantizer()
    load_library()  # before the quantizer's own import of it: with its telemetry off
    made = onnx.ModelProto()
    made.CopyFrom(model)
    write_shapes(made)
    layers = quantized_layers(made) if ways.float_ends else convolutions(made)
    if not layers:  # an empty list stands for every node in what follows
        raise InputError(
            f"no convolution of this graph can be int8: it has {len(convolutions(made))}, and the first and the last "
            "stay float32; leave int8 out for this tokenizer"
        )
    outputs = [node.output[0] for node in layers]
    every = convolutions(made)
    found = measure(made, list(dict.fromkeys([*(node.input[0] for node in every), *outputs])), inputs)
    for node in every:
        check(layer_name(node), found[node.input[0]], len(inputs))
    wanted = [node.name for node in layers]
    largest = {tensor: ways.share * ways.ends.get(tensor, float(read.largest.max())) for tensor, read in found.items()}
    channels = {tensor: found[tensor].largest for tensor in outputs}
    equalise(made, channels if ways.equalised else {name: np.full_like(c, c.max()) for name, c in channels.items()})
    # What was a convolution's output is now a product; it is read by others as it was.
    ends = largest | {equalised(tensor): 1.0 for tensor in outputs}
    return _tidy(_quantize(made, wanted, ends, ways.per_channel), model)


def _quantize(
    model: onnx.ModelProto, wanted: list[str], largest: dict[str, float], per_channel: bool
) -> onnx.ModelProto:
    """Run onnxruntime's quantizer on the nodes named, with activations from -largest to largest."""
    quantization, calibrate = (import_module(f"onnxruntime.quantization{name}") for name in ("", ".calibrate"))
    ends = {tensor: (np.float32(-end), np.float32(end)) for tensor, end in largest.items()}
    quantizer = import_module("onnxruntime.quantization.qdq_quantizer").QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel=per_channel,
        reduce_range=False,
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=quantization.QuantType.QInt8,
        tensors_range=calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, ends),
        nodes_to_quantize=wanted,
        nodes_to_exclude=[],
        op_types_to_quantize=[CONVOLUTION],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    _keep_float(made.graph, {equalised(tensor) for tensor in largest}, set(wanted))
    _round_for_each(made.graph, set(wanted))
    return made


def _keep_float(graph: onnx.GraphProto, outputs: set[str], wanted: set[str]) -> None:
    """Let whoever is no int8 convolution read what one reads as it was before it was rounded for that."""
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == QUANTIZE}
    restored = {
        node.output[0]: rounded[node.input[0]] for node in graph.node if node.input and node.input[0] in rounded
    }
    for node in graph.node:
        for index, name in enumerate(node.input):
            if node.name not in wanted and restored.get(name, name) not in {name, *outputs}:
                node.input[index] = restored[name]


def _round_for_each(graph: onnx.GraphProto, wanted: set[str]) -> None:
    """Give each of several convolutions of one tensor its own rounding of it, whose scale differs in the last digit.

    The four convolutions of a doubling read one tensor. onnxruntime computes in integers only where one node reads a
    rounded tensor, and where two roundings are the same it makes them one again.
    """
    makers = {node.output[0]: node for node in graph.node}
    tables = {table.name: table for table in graph.initializer}
    count: Counter[str] = Counter()
    for node in [node for node in graph.node if node.name in wanted]:
        restoring = makers[node.input[0]]
        count[restoring.output[0]] += 1
        if (number := count[restoring.output[0]]) == 1:
            continue
        scale = numpy_helper.to_array(tables[restoring.input[1]])
        for _ in range(number - 1):
            scale = np.nextafter(scale, np.float32(np.inf))
        by = f"{restoring.input[1]}/{number}"
        graph.initializer.append(numpy_helper.from_array(scale, by))
        read = makers[restoring.input[0]].input[0]
        for maker in (makers[restoring.input[0]], restoring):
            own = onnx.NodeProto()
            own.CopyFrom(maker)
            own.name, own.output[0] = f"{maker.name}/{number}", f"{maker.output[0]}/{number}"
            own.input[0], own.input[1], read = read, by, own.output[0]
            graph.node.append(own)
        node.input[0] = read


def _tidy(made: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the quantizer's graph as ours are written: without what it notes, in an order."""
    del made.graph.value_info[:], made.metadata_props[:], made.opset_import[:]
    made.producer_name, made.producer_version, made.ir_version = (
        model.producer_name,
        model.producer_version,
        model.ir_version,
    )
    made.opset_import.extend(model.opset_import)
    _sort(made.graph)
    _order_tables(made.graph)
    onnx.checker.check_model(made)
    return made


def _sort(graph: onnx.GraphProto) -> None:
    """Put each node after those that it reads, otherwise in their order: the quantizer appends its own."""
    makers = {output: node for node in graph.node for output in node.output}
    done: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        waiting = [node]
        while waiting:
            last = waiting[-1]
            before = [makers[name] for name in last.input if name in makers and name not in done]
            if before:
                waiting += before[:1]
                continue
            waiting.pop()
            done |= dict.fromkeys(last.output, last)
    nodes = list({id(node): node for node in done.values()}.values())
    del graph.node[:]
    graph.node.extend(nodes)


def _order_tables(graph: onnx.GraphProto) -> None:
    """Leave the tables that somebody reads, in the order of their names.

    Scales and zero points stay apart where they are equal: for sums that cannot overflow onnxruntime replaces each by
    one of its own, and does not load a graph in which two convolutions share one.
    """
    read = {name for node in graph.node for name in node.input}
    left = sorted((table for table in graph.initializer if table.name in read), key=lambda table: table.name)
    del graph.initializer[:]
    graph.initializer.extend(left)
