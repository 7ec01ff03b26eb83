"""A repository read as Triton reads it: its protobufs, and the rules of model_config_utils.cc and ensemble_utils.cc."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

Arrays = dict[str, np.ndarray[Any, Any]]
TYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT32: "TYPE_INT32",
}
FILES = {"onnxruntime_onnx": "model.onnx", "tensorrt_plan": "model.plan"}


def read(repo: Path) -> dict[str, Any]:
    """{model: its ModelConfig}; unknown fields, names and types are errors of the parser."""
    folders = [path for path in repo.iterdir() if path.is_dir()]
    return {path.name: text_format.Parse((path / "config.pbtxt").read_text(), ModelConfig()) for path in folders}


def parameters(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def check(repo: Path) -> dict[str, Any]:
    """Read a repository, check what Triton checks when it loads one, and return its configs."""
    configs = read(repo)
    for name, config in configs.items():
        assert config.name == name
        assert config.max_batch_size > 0
        assert config.version_policy.latest.num_versions == 1
        assert [path.name for path in (repo / name).iterdir() if path.is_dir()] == ["1"]
        assert config.input
        assert config.output
        for tensor in (*config.input, *config.output):
            assert tensor.name
            assert tensor.data_type
            assert all(side > 0 for side in tensor.dims)
        if config.platform == "ensemble":
            _check_ensemble(config, configs)
        else:
            _check_model(repo / name / "1", config)
    return configs


def _check_model(version: Path, config: Any) -> None:
    (group,) = config.instance_group
    assert group.kind in (ModelInstanceGroup.KIND_GPU, ModelInstanceGroup.KIND_CPU)
    assert group.count > 0
    batching = config.dynamic_batching
    assert all(0 < size <= config.max_batch_size for size in batching.preferred_batch_size)
    assert batching.default_queue_policy.max_queue_size > 0
    assert batching.default_queue_policy.default_timeout_microseconds > 0
    names = [sample.name for sample in config.model_warmup]
    assert len(set(names)) == len(names)
    assert {1, config.max_batch_size} <= {sample.batch_size for sample in config.model_warmup}
    for sample in config.model_warmup:
        assert sample.batch_size <= config.max_batch_size
        assert {name: (i.data_type, list(i.dims)) for name, i in sample.inputs.items()} == {
            i.name: (i.data_type, list(i.dims)) for i in config.input
        }
        assert all(i.zero_data for i in sample.inputs.values())
    if config.platform == "tensorrt_plan":
        assert group.kind == ModelInstanceGroup.KIND_GPU
    files = {path.name for path in version.iterdir()}
    expected = set(config.cc_model_filenames.values())
    assert files == expected or files == expected | {FILES[config.platform]}
    if config.platform == "onnxruntime_onnx":
        _check_graph(version / "model.onnx", config)


def _check_graph(file: Path, config: Any) -> None:
    """As the onnxruntime backend compares: names, types, and dimensions with a free batch before them."""
    graph = onnx.load(file).graph
    for tensors, infos in ((config.input, graph.input), (config.output, graph.output)):
        assert [tensor.name for tensor in tensors] == [info.name for info in infos]
        for tensor, info in zip(tensors, infos, strict=True):
            kind = info.type.tensor_type
            batch, *sides = kind.shape.dim
            assert TYPES[kind.elem_type] == DataType.Name(tensor.data_type)
            assert not batch.HasField("dim_value")
            assert [side.dim_value for side in sides] == list(tensor.dims)


def _check_ensemble(config: Any, configs: Mapping[str, Any]) -> None:
    assert not config.instance_group
    assert not config.model_warmup
    assert not config.HasField("optimization")
    made = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.input}
    used = set()
    for step in config.ensemble_scheduling.step:
        model = configs[step.model_name]
        assert model.max_batch_size >= config.max_batch_size
        assert set(step.input_map) == {tensor.name for tensor in model.input}
        assert set(step.output_map) <= {tensor.name for tensor in model.output}
        for tensor in model.input:
            name = step.input_map[tensor.name]
            assert made[name] == (tensor.data_type, list(tensor.dims))
            used.add(name)
        for tensor in model.output:
            assert step.output_map[tensor.name] not in made
            made[step.output_map[tensor.name]] = (tensor.data_type, list(tensor.dims))
    outputs = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.output}
    assert outputs.items() <= made.items()
    assert used | outputs.keys() == made.keys(), "a tensor that nobody uses"


def run(repo: Path, name: str, inputs: Arrays) -> Arrays:
    """What a model computes, ONNX files run by onnxruntime: an ensemble is walked as its config says."""
    config = read(repo)[name]
    if config.platform != "ensemble":
        session = onnxruntime.InferenceSession(repo / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        names = [output.name for output in config.output]
        return dict(zip(names, session.run(names, inputs), strict=True))
    tensors = dict(inputs)
    for step in config.ensemble_scheduling.step:
        made = run(repo, step.model_name, {name: tensors[where] for name, where in step.input_map.items()})
        tensors |= {where: made[name] for name, where in step.output_map.items()}
    return {output.name: tensors[output.name] for output in config.output}
