"""Which execution providers a file is loaded on, and with which options."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DeviceError, InputError
from ...format.manifest import Artifact
from ...format.precision import precision_of
from ...io.counts import count
from ...io.json_fields import parse_json
from ...machine.devices import count_cuda_devices
from ...machine.processors import default_threads, describe_cpu
from ...requirements import ONNXRUNTIME_GPU, pip_install
from ..base import LoadOptions
from .library import conflict_advice, preload_cuda
from .plugins import (
    OPENVINO,
    TENSORRT_RTX,
    canonical,
    device_name,
    idle_plugin,
    may_take,
    missing_plugin,
    plugin_devices,
)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
NVIDIA = (CUDA, TENSORRT, TENSORRT_RTX)


@dataclass(frozen=True)
class Choice:
    """One execution provider, with its options. A plugin's has `devices`, by which a session takes it."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    devices: tuple[Any, ...] = ()

    @property
    def device(self) -> str:
        """Where it runs, as `Session.device` has it: "cpu", "cuda:N", "openvino:cpu", or the provider's own name."""
        if self.name == CPU:
            return "cpu"
        if self.name in NVIDIA:
            return f"cuda:{self.options.get('device_id', 0)}"
        own = self.name.removesuffix("ExecutionProvider").lower()
        return f"{own}:{device_name(self.devices[0]).lower()}" if self.devices else own


def choose(ort: Any, options: LoadOptions, artifact: Artifact) -> list[Choice]:
    """Return the providers for a file, most wanted first. Registers a plugin that is asked for by name.

    Without `options.providers`: CUDA for "cuda", and for "auto" where onnxruntime and the driver have it; else the
    CPU, on onnxruntime's own provider, or for a bf16 file on OpenVINO.

    Raises DeviceError, InputError, MissingDependencyError, BackendError.
    """
    index = options.cuda_index()
    if options.providers is not None:
        asked = [_split(provider) for provider in options.providers]
        _check_agreement(asked[0], options)
    else:
        asked = follow_device(ort, options, artifact)
    choices = [_prepare(ort, name, given, options, artifact) for name, given in asked]
    if index is not None and choices[0].name in NVIDIA:
        found = count_cuda_devices()
        if index >= found:
            raise DeviceError(
                f"device is {options.device!r}, and the NVIDIA driver shows {found} GPUs here; "
                'pass device="cpu", or check nvidia-smi and CUDA_VISIBLE_DEVICES'
            )
    return choices


def openvino_options(given: Mapping[str, Any], precision: str, threads: int | None) -> tuple[str, dict[str, str]]:
    """Return OpenVINO's device ("CPU", "GPU", "NPU", "GPU.1") and the options to pass for it.

    What `given["load_config"]` (JSON text, or a file of it) already says stays. Raises InputError if it is not JSON.
    """
    options = {name: str(value) for name, value in given.items() if name not in ("device_type", "load_config")}
    device = str(given.get("device_type", "CPU")).upper()
    config = _load_config(given.get("load_config"))
    own = dict(config.get(device.partition(".")[0], {}))
    # The plugin ignores its options `precision` and `num_of_threads`; only properties reach the device.
    hint = precision_of(precision).openvino_hint
    if hint is not None and not {"INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT"} & own.keys():
        own["INFERENCE_PRECISION_HINT"] = hint
    if threads is not None and device == "CPU":
        own.setdefault("INFERENCE_NUM_THREADS", threads)
    if own:
        config[device.partition(".")[0]] = own
    return device, {**options, **({"load_config": json.dumps(config)} if config else {})}


def names(choices: Sequence[Choice]) -> str:
    """Return the names of the providers, for a message."""
    return ", ".join(choice.name for choice in choices)


def follow_device(ort: Any, options: LoadOptions, artifact: Artifact) -> list[tuple[str, dict[str, Any]]]:
    """Return the names of the providers for `options.device`. OpenVINO's plugin is registered for a file in bf16.

    Raises MissingDependencyError or DeviceError for one in bf16 that nothing here can run, BackendError.
    """
    available = ort.get_available_providers()
    # "auto" asks the driver, so that onnxruntime-gpu on a machine without a GPU means the CPU and no error.
    use_cuda = options.device == "auto" and CUDA in available and count_cuda_devices() > 0
    if use_cuda or options.cuda_index() is not None:
        return [(CUDA, {}), (CPU, {})]
    if precision_of(artifact.precision).onnxruntime_cpu:
        return [(CPU, {})]
    if OPENVINO in available or plugin_devices(ort, OPENVINO):
        return [(OPENVINO, {})]
    raise _no_provider(ort, artifact)


def _no_provider(ort: Any, artifact: Artifact) -> Exception:
    text = f"{artifact.file} is in {artifact.precision}, which onnxruntime's own CPU provider cannot run"
    ways = 'pass backend="openvino", run it on a GPU, or, if the bundle has fp32 too, pass precision="fp32"'
    idle, cpu = idle_plugin(ort, OPENVINO), describe_cpu()
    if idle is not None:
        return DeviceError(f"{text}, and {idle}; {ways}")
    if not may_take(cpu):
        return DeviceError(f"{text}, and OpenVINO's plugin takes no {cpu['model'] or cpu['machine']}; {ways}")
    missing = missing_plugin(OPENVINO, f"{text}; {ways}; or let OpenVINO do it")
    assert missing is not None  # noqa: S101 - OpenVINO is a known plugin
    return missing


def _check_agreement(first: tuple[str, dict[str, Any]], options: LoadOptions) -> None:
    name, given = first
    index = options.cuda_index()
    on_cpu = name == CPU or (name == OPENVINO and str(given.get("device_type", "CPU")).upper() == "CPU")
    agrees = {
        "auto": True,
        "cpu": on_cpu,
    }.get(options.device, name in NVIDIA and str(given.get("device_id", index)) == str(index))
    if not agrees:
        what = f"{name} with device_id {given['device_id']}" if "device_id" in given else name
        raise InputError(
            f"device is {options.device!r} and the first provider is {what}; "
            'pass providers with device="auto", or make them agree'
        )


def _prepare(ort: Any, name: str, given: dict[str, Any], options: LoadOptions, artifact: Artifact) -> Choice:
    """Return a provider as a session takes it: a plugin registered, with what coda sets under what is given."""
    if name in (CUDA, TENSORRT):
        preload_cuda(ort)
    available = ort.get_available_providers()
    devices = [] if name == CPU else _plugin_devices(ort, name, available)
    if not devices and name not in available:
        raise _missing(ort, name, options, available)
    number = given.get("device_id", options.cuda_index() or 0)
    if name == CPU:
        return Choice(name, given)
    if name == CUDA:
        # TF32 rounds a float32 product to 10 bits, which changes 5 to 10 % of the tokens.
        return Choice(name, {"device_id": number, "use_tf32": 0, **given}, tuple(_numbered(devices, name, number)))
    if name == OPENVINO:
        threads = default_threads() if options.threads is None else options.threads
        device, passed = openvino_options(given, artifact.precision, threads)
        if not devices:  # built into onnxruntime-openvino
            return Choice(name, {"device_type": device, **passed})
        fitting = [found for found in devices if device_name(found).upper() == device]
        if not fitting:
            there = ", ".join(device_name(found) for found in devices)
            raise DeviceError(f"OpenVINO has no {device} here, only {there}; pass device_type with one of them")
        return Choice(name, passed, (fitting[0],))
    if name in NVIDIA:
        _check_tf32(name, artifact)
        own = {"trt_engine_cache_enable": False, "trt_timing_cache_enable": False, "trt_fp16_enable": False}
        # Scales stand in the graph; a network that is not strongly typed takes them with this alone. Not run yet.
        own["trt_int8_enable"] = precision_of(artifact.precision).is_integer
        set_here = {"device_id": number, **(own if name == TENSORRT else {})}
        return Choice(name, {**set_here, **given}, tuple(_numbered(devices, name, number)))
    return Choice(name, given, tuple(_numbered(devices, name, given.get("device_id", 0))))


def _plugin_devices(ort: Any, name: str, available: Sequence[str]) -> list[Any]:
    """Return a plugin's devices. A provider that onnxruntime was built with is not looked for among plugins."""
    built_in = name in available and name != OPENVINO and name != TENSORRT_RTX
    return [] if built_in else plugin_devices(ort, name)


def _numbered(devices: Sequence[Any], name: str, number: object) -> list[Any]:
    if not devices:
        return []
    index = int(str(number)) if str(number).isdecimal() else -1
    if not 0 <= index < len(devices):
        raise DeviceError(f"{name} has {count(len(devices), 'device')} here, and device_id is {number!r}; count from 0")
    return [devices[index]]


def _check_tf32(name: str, artifact: Artifact) -> None:
    if precision_of(artifact.precision).is_float32 and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        raise DeviceError(
            f"{name} computes {artifact.file} in TF32, not in float32, and has no option against it; set the "
            "environment variable NVIDIA_TF32_OVERRIDE=0 before Python starts, or choose CUDAExecutionProvider"
        )


def _missing(ort: Any, name: str, options: LoadOptions, available: Sequence[str]) -> Exception:
    follows = options.providers is None
    text = f"device {options.device!r} needs {name}" if follows else f"{name} was asked for"
    idle = idle_plugin(ort, name)
    if idle is not None:
        return DeviceError(f"{text}, and {idle}; choose another provider")
    text = f"{text}, and this onnxruntime has only {', '.join(available)}"
    error = missing_plugin(name, text)
    if error is not None:
        return error
    if name not in NVIDIA:
        return DeviceError(f"{text}; install the onnxruntime that has it, or choose another provider")
    conflict = conflict_advice("gpu")
    if conflict is not None:
        return DeviceError(f"{text}: {conflict}")
    return DeviceError(
        f'{text}; pass device="cpu", or on a machine with an NVIDIA GPU: '
        f"pip uninstall -y onnxruntime && {pip_install(ONNXRUNTIME_GPU)}"
    )


def _split(provider: object) -> tuple[str, dict[str, Any]]:
    if isinstance(provider, str):
        return canonical(provider), {}
    if isinstance(provider, Sequence) and len(provider) == 2 and isinstance(provider[0], str):
        options: object = provider[1]
        if isinstance(options, Mapping):
            return canonical(provider[0]), dict(options)
    raise InputError(f"providers holds {provider!r}; expected names, or (name, options) pairs")


def _load_config(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    text = str(given)
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        config: object = parse_json(text)
    except (OSError, ValueError) as error:
        raise InputError(f"load_config is {given!r}, which is no JSON and no file of it ({error})") from error
    if not isinstance(config, dict) or not all(isinstance(value, dict) for value in config.values()):
        raise InputError(f'load_config is {given!r}; expected {{"CPU": {{"PROPERTY": value}}}}')
    return config
