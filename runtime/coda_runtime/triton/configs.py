"""The config.pbtxt of each model, as messages: three parts and two ensembles.

What stands in them is from Triton's protobuf/model_config.proto and the sources of its onnxruntime and tensorrt
backends; docs/triton.md names the place for each setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..format.parts import OPERATIONS, PARTS, TensorSpec
from ..format.spec import Spec
from .options import RepositoryOptions
from .parts import ServedPart
from .pbtxt import Message, Symbol, Value, entries

PLATFORMS = {"onnx": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
ENSEMBLES = {name: OPERATIONS[name] for name in ("encode", "decode")}
"""Name: the parts that its data goes through."""


def part_config(served: ServedPart, spec: Spec, options: RepositoryOptions, provenance: Mapping[str, str]) -> Message:
    """Return the config of a part. `provenance` becomes parameters, which clients can read and backends do not know."""
    part = PARTS[served.part]
    config: dict[str, Value] = {
        "name": served.part,
        "platform": PLATFORMS[served.format],
        "max_batch_size": served.max_batch,
        "input": [_tensor(part.input, spec)],
        "output": [_tensor(part.output, spec)],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [_instances(served, options)],
        "dynamic_batching": _batching(served, options),
        "model_warmup": [_warmup(part.input, spec, size) for size in sorted({1, *served.preferred, served.max_batch})],
    }
    by_capability = {file.capability: file.name for file in served.files if file.capability is not None}
    if by_capability:
        config["cc_model_filenames"] = entries(by_capability)
    parameters = dict(provenance)
    if served.format == "onnx" and options.device == "gpu":
        config["optimization"] = _cuda()
    elif served.format == "onnx":
        # Without a number, each of the three models would start as many threads as there are cores.
        parameters |= {} if options.threads is None else {"intra_op_thread_count": str(options.threads)}
    config["parameters"] = _parameters(parameters)
    return config


def ensemble_config(name: str, parts: Sequence[ServedPart], spec: Spec, provenance: Mapping[str, str]) -> Message:
    """Return the config of an ensemble that hands the tensors of `parts`, in order, from one to the next."""
    steps: list[Value] = []
    for served in parts:
        source, target = PARTS[served.part].input.name, PARTS[served.part].output.name
        maps = {"input_map": entries({source: source}), "output_map": entries({target: target})}
        steps.append({"model_name": served.part, "model_version": -1, **maps})
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": max_batch(parts),
        "input": [_tensor(PARTS[parts[0].part].input, spec)],
        "output": [_tensor(PARTS[parts[-1].part].output, spec)],
        "version_policy": {"latest": {"num_versions": 1}},
        "ensemble_scheduling": {"step": steps},
        "parameters": _parameters({**provenance, "coda.spec": json.dumps(spec.to_json())}),
    }


def max_batch(parts: Sequence[ServedPart]) -> int:
    """Return the most images that go through all of these models at once."""
    return min(served.max_batch for served in parts)


def _shape(tensor: TensorSpec, spec: Spec) -> dict[str, Value]:
    """Return type and dimensions of a tensor, without the batch."""
    return {"data_type": Symbol(f"TYPE_{tensor.datatype}"), "dims": list(tensor.row(spec))}


def _tensor(tensor: TensorSpec, spec: Spec) -> Message:
    return {"name": tensor.name, **_shape(tensor, spec)}


def _instances(served: ServedPart, options: RepositoryOptions) -> Message:
    group: dict[str, Value] = {"kind": Symbol(f"KIND_{options.device.upper()}"), "count": options.instances}
    if served.profiles:
        # Without them the first profile alone is used. Of these the server takes for each batch the one that holds it
        # and whose OPT is nearest, as the runtime does.
        group["profile"] = list(map(str, served.profiles))
    return group


def _batching(served: ServedPart, options: RepositoryOptions) -> Message:
    preferred: Message = {"preferred_batch_size": list(served.preferred)} if served.preferred else {}
    policy: Message = {
        "timeout_action": Symbol("REJECT"),
        "default_timeout_microseconds": options.timeout_ms * 1000,
        "allow_timeout_override": True,
        "max_queue_size": options.max_queue,
    }
    return {**preferred, "max_queue_delay_microseconds": options.delay_us, "default_queue_policy": policy}


def _warmup(tensor: TensorSpec, spec: Spec, size: int) -> Message:
    # Zeros, not random_data: random bytes are ids far outside of the table, and floats that are not numbers.
    data: Message = {**_shape(tensor, spec), "zero_data": True}
    return {"name": f"batch_{size}", "batch_size": size, "inputs": entries({tensor.name: data})}


def _cuda() -> Message:
    # By default CUDA rounds float32 products to TF32, which changes 5 to 10 % of the tokens.
    accelerator: Message = {"name": "cuda", "parameters": entries({"use_tf32": "0"})}
    return {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}


def _parameters(values: Mapping[str, str]) -> list[Value]:
    return entries({key: {"string_value": value} for key, value in values.items()})
