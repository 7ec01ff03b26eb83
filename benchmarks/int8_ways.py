"""What others do to a graph that becomes int8: calibrators, corrected biases, fitted latents, and whole quantizers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from coda_export.int8.layers import convolutions
from coda_export.int8.quantize import Ways, quantized_graph

Array = NDArray[Any]
Run = Callable[[Array], Array]


class _Reader:
    """Inputs one by one, as onnxruntime's calibrators ask for them."""

    def __init__(self, name: str, rows: Array) -> None:
        self.name, self.rows = name, iter(rows)

    def get_next(self) -> dict[str, Array] | None:
        row = next(self.rows, None)
        return None if row is None else {self.name: row[None]}


def calibrated(model: onnx.ModelProto, inputs: Array, method: str, **options: Any) -> onnx.ModelProto:
    """Return the graph as exported, with the ends of activations from a calibrator of onnxruntime, by its name."""
    calibrate = import_module("onnxruntime.quantization.calibrate")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(model, file)
        calibrator = calibrate.create_calibrator(
            file,
            op_types_to_calibrate=["Conv"],
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=calibrate.CalibrationMethod[method],
            extra_options={"symmetric": True, **options},
        )
        with contextlib.redirect_stdout(io.StringIO()):
            calibrator.collect_data(_Reader(model.graph.input[0].name, inputs))
            found = calibrator.compute_data()
    reads = {node.input[0] for node in convolutions(model)}
    ends = {name: float(np.abs(found[name].range_value).max()) for name in reads if name in found.keys()}  # noqa: SIM118
    return quantized_graph(model, inputs, Ways(ends=ends))


def corrected(model: onnx.ModelProto, inputs: Array) -> onnx.ModelProto:
    """Return the graph as exported, each bias moved by what its convolution is off in the mean, one after another."""
    made = quantized_graph(model, inputs)
    tables = {table.name: table for table in made.graph.initializer}
    for node in convolutions(made):
        exact, found = (_channel_means(graph, node.name, inputs) for graph in (model, made))
        # Where channels were brought to one magnitude, a product after the integers brings them back.
        back = tables.get(node.output[0].replace("/equalised", "/channels"))
        scale = 1.0 if back is None else numpy_helper.to_array(back).reshape(-1)
        bias = numpy_helper.to_array(tables[node.input[2]]) + (exact / scale - found)
        name = f"{node.name}/corrected"
        made.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name))
        node.input[2] = name
    return made


def _channel_means(model: onnx.ModelProto, node: str, inputs: Array) -> Array:
    (output,) = (found.output[0] for found in model.graph.node if found.name == node)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(helper.make_node("GlobalAveragePool", [output], ["mean"]))
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, None))
    means: Array = runner(copy)(inputs).mean(axis=(0, 2, 3))
    return means


def fitted(exact: Run, made: Run, inputs: Array) -> Run:
    """Return ``made`` with its latent [N, C, h, w] brought nearest to the exact one by one matrix and one shift."""
    theirs, ours = (np.moveaxis(run(inputs), 1, -1).reshape(-1, run(inputs[:1]).shape[1]) for run in (exact, made))
    matrix, *_ = np.linalg.lstsq(np.column_stack([ours, np.ones(len(ours))]), theirs, rcond=None)

    def run(rows: Array) -> Array:
        latent = np.moveaxis(made(rows), 1, -1)
        return np.ascontiguousarray(np.moveaxis(latent @ matrix[:-1] + matrix[-1], -1, 1)).astype(np.float32)

    return run


def by_nncf(model: onnx.ModelProto, inputs: Array) -> onnx.ModelProto:
    """Return Intel's own: every operator that it takes, biases corrected. Raises ImportError without nncf."""
    nncf = import_module("nncf")
    nncf.set_log_level(logging.ERROR)
    rows = nncf.Dataset([{model.graph.input[0].name: row[None]} for row in inputs])
    with _silent():
        made: onnx.ModelProto = nncf.quantize(model, rows)
    return made


def by_modelopt(model: onnx.ModelProto, inputs: Array) -> onnx.ModelProto:
    """Return NVIDIA's own, convolutions alone. Raises ImportError without modelopt."""
    quantize = import_module("modelopt.onnx.quantization").quantize
    with tempfile.TemporaryDirectory() as folder, _silent():
        onnx.save(model, f"{folder}/model.onnx")
        quantize(
            f"{folder}/model.onnx",
            quantize_mode="int8",
            calibration_data={model.graph.input[0].name: inputs},
            calibration_method="max",
            calibration_eps=["cpu"],
            op_types_to_quantize=["Conv"],
            high_precision_dtype="fp32",
            output_path=f"{folder}/made.onnx",
        )
        return onnx.load(f"{folder}/made.onnx")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def runner(model: onnx.ModelProto) -> Run:
    """Return what runs a graph of one input and one output on one thread, eight rows at once."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()

    def run(rows: Array) -> Array:
        parts = [session.run(None, {entry.name: rows[start : start + 8]})[0] for start in range(0, len(rows), 8)]
        return np.concatenate(parts)

    return run
