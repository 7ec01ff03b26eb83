"""Small graphs for the providers: convolutions, quantised ones, and one operator that OpenVINO does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from tests.runtime import tiny

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def images(batch: int = 2) -> npt.NDArray[np.uint8]:
    """uint8 [batch,32,32,3]."""
    return tiny.photos(batch)


def write_convolutions(folder: Path, precision: str) -> tuple[Bundle, Artifact]:
    """uint8 [B,32,32,3] -> float32 [B,16,32,32], computed in `precision`; the same weights for all of them."""
    rng = np.random.default_rng(7)
    kind = TYPES[precision]
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["x0"], to=kind),
    ]
    constants = [numpy_helper.from_array(np.float32(1 / 255), "scale")]
    for i, (inner, outer) in enumerate([(3, 32), (32, 32), (32, 16)]):
        weight = (rng.normal(size=(outer, inner, 3, 3)) / np.sqrt(9 * inner)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w32_{i}"))
        nodes.append(helper.make_node("Cast", [f"w32_{i}"], [f"w{i}"], to=kind))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Cast", ["x3"], ["latent"], to=TensorProto.FLOAT))
    source = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", 32, 32, 3])
    target = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["B", 16, 32, 32])
    return _save(folder, f"encoder.{precision}.onnx", nodes, source, target, constants)


def write_quantised(folder: Path) -> tuple[Bundle, Artifact]:
    """uint8 [B,32,32,3] -> float32 [B,16,32,32]: two convolutions whose inputs and weights are int8 with scales.

    The first reads nothing but the largest values, so that a sum of bytes that overflows shows.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "spread"], ["x0"]),
    ]
    spread = np.full((64, 3, 1, 1), 1 / 3, np.float32)
    constants = [numpy_helper.from_array(spread, "spread"), numpy_helper.from_array(np.int8(0), "zero")]
    for i, (inner, outer) in enumerate([(64, 64), (64, 16)]):
        scale, weight_scale = np.float32(2.0 if i == 0 else 64.0), np.full(outer, 1 / 4096, np.float32)
        weight = np.full((outer, inner, 3, 3), 127, np.int8)
        constants += [
            numpy_helper.from_array(scale, f"s{i}"),
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(weight_scale, f"ws{i}"),
            numpy_helper.from_array(np.zeros(outer, np.int8), f"wz{i}"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", [f"x{i}", f"s{i}", "zero"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", f"s{i}", "zero"], [f"d{i}"]),
            helper.make_node("DequantizeLinear", [f"w{i}", f"ws{i}", f"wz{i}"], [f"v{i}"], axis=0),
            helper.make_node("Conv", [f"d{i}", f"v{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]),
        ]
    nodes.append(helper.make_node("Identity", ["x2"], ["latent"]))
    source = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", 32, 32, 3])
    target = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["B", 16, 32, 32])
    return _save(folder, "encoder.int8.onnx", nodes, source, target, constants)


def write_partly_taken(folder: Path) -> tuple[Bundle, Artifact]:
    """float32 [B,4,4] -> [B]: a Det, which OpenVINO leaves to others, between two Relus."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Det", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4, 4])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B"])
    return _save(folder, "encoder.fp32.onnx", nodes, source, target, [])


def write_scan(folder: Path) -> tuple[Bundle, Artifact]:
    """float32 [B,4] -> [3,4]: a Scan over a table whose body reads a value from outside, as a quantizer's does.

    OpenVINO takes it and then fails on it.
    """
    carried, row = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("carried", "row"))
    total, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("total", "out"))
    add = [helper.make_node("Add", ["carried", "scaled"], ["total"]), helper.make_node("Identity", ["total"], ["out"])]
    add.insert(0, helper.make_node("Mul", ["row", "outside"], ["scaled"]))
    body = helper.make_graph(add, "body", [carried, row], [total, out])
    zero = numpy_helper.from_array(np.zeros(4, np.float32), "zero")
    table = numpy_helper.from_array(np.ones((3, 4), np.float32), "table")
    nodes = [helper.make_node("ReduceMax", ["latent", "axis"], ["outside"], keepdims=0)]
    axis = numpy_helper.from_array(np.int64([0, 1]), "axis")
    nodes += [helper.make_node("Scan", ["zero", "table"], ["last", "ids"], body=body, num_scan_inputs=1)]
    source = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["B", 4])
    target = helper.make_tensor_value_info("ids", TensorProto.FLOAT, [3, 4])
    return _save(folder, "quantizer.fp32.onnx", nodes, source, target, [zero, table, axis])


def _save(
    folder: Path, name: str, nodes: list[Any], source: Any, target: Any, constants: list[Any]
) -> tuple[Bundle, Artifact]:
    graph = helper.make_graph(nodes, "g", [source], [target], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), folder / name)
    artifact = tiny.describe(folder, name)
    return tiny.alone(folder, artifact), artifact
