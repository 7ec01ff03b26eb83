"""The config.pbtxt of each model, as messages: three parts and two ensembles.

What stands in them is from Triton's protobuf/model_config.proto and the sources of its onnxruntime and tensorrt
backends; docs/triton.md names the place for each setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..format.manifest import Spec
from .options import RepositoryOptions
from .parts import ServedPart
from .pbtxt import Message, Symbol, Value, entries

PLATFORMS = {"onnx": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
ENSEMBLES = {"encode": ("encoder", "quantizer"), "decode": ("decoder",)}
"""Name: the parts that its data goes through."""

_TENSORS = {"encoder": ("image", "latent"), "quantizer": ("latent", "ids"), "decoder": ("ids", "image")}


def part_config(served: ServedPart, spec: Spec, options: RepositoryOptions, provenance: Mapping[str, str]) -> Message:
    """The config of a part. `provenance` becomes parameters, which clients can read and backends do not know."""
    source, target = _TENSORS[served.part]
    config: dict[str, Value] = {
        "name": served.part,
        "platform": PLATFORMS[served.format],
        "max_batch_size": served.max_batch,
        "input": [_tensor(source, spec)],
        "output": [_tensor(target, spec)],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"kind": Symbol(f"KIND_{options.device.upper()}"), "count": options.instances}],
        "dynamic_batching": _batching(served, options),
        "model_warmup": [_warmup(source, spec, size) for size in sorted({1, *served.preferred, served.max_batch})],
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
    """The config of an ensemble that hands the tensors of `parts`, in order, from one to the next."""
    steps: list[Value] = []
    for served in parts:
        source, target = _TENSORS[served.part]
        maps = {"input_map": entries({source: source}), "output_map": entries({target: target})}
        steps.append({"model_name": served.part, "model_version": -1, **maps})
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": max_batch(parts),
        "input": [_tensor(_TENSORS[parts[0].part][0], spec)],
        "output": [_tensor(_TENSORS[parts[-1].part][1], spec)],
        "version_policy": {"latest": {"num_versions": 1}},
        "ensemble_scheduling": {"step": steps},
        "parameters": _parameters({**provenance, "coda.spec": json.dumps(spec.to_json())}),
    }


def max_batch(parts: Sequence[ServedPart]) -> int:
    """The most images that go through all of these models at once."""
    return min(served.max_batch for served in parts)


def _shape(name: str, spec: Spec) -> tuple[str, list[int]]:
    """Type and dimensions of a tensor, without the batch."""
    side = spec.latent_size
    return {
        "image": ("TYPE_UINT8", [spec.image_size, spec.image_size, 3]),
        "latent": ("TYPE_FP32", [spec.latent_channels, side, side]),
        "ids": ("TYPE_INT32", [spec.num_tokens]),
    }[name]


def _tensor(name: str, spec: Spec) -> Message:
    kind, dims = _shape(name, spec)
    return {"name": name, "data_type": Symbol(kind), "dims": dims}


def _batching(served: ServedPart, options: RepositoryOptions) -> Message:
    preferred: Message = {"preferred_batch_size": list(served.preferred)} if served.preferred else {}
    policy: Message = {
        "timeout_action": Symbol("REJECT"),
        "default_timeout_microseconds": options.timeout_ms * 1000,
        "allow_timeout_override": True,
        "max_queue_size": options.max_queue,
    }
    return {**preferred, "max_queue_delay_microseconds": options.delay_us, "default_queue_policy": policy}


def _warmup(source: str, spec: Spec, size: int) -> Message:
    # Zeros, not random_data: random bytes are ids far outside of the table, and floats that are not numbers.
    kind, dims = _shape(source, spec)
    data: Message = {"data_type": Symbol(kind), "dims": dims, "zero_data": True}
    return {"name": f"batch_{size}", "batch_size": size, "inputs": entries({source: data})}


def _cuda() -> Message:
    # By default CUDA rounds float32 products to TF32, which changes 5 to 10 % of the tokens.
    accelerator: Message = {"name": "cuda", "parameters": entries({"use_tf32": "0"})}
    return {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}


def _parameters(values: Mapping[str, str]) -> list[Value]:
    return entries({key: {"string_value": value} for key, value in values.items()})
