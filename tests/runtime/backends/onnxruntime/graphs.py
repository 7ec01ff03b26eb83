"""Small graphs for the providers: three convolutions, and one operator that OpenVINO does not take."""

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
