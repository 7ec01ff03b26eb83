from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coda_runtime import DeviceError, InputError, MissingDependencyError, requirements
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.onnxruntime import library, plugins, providers
from coda_runtime.backends.onnxruntime.plugins import OPENVINO, TENSORRT_RTX, Plugin
from coda_runtime.backends.onnxruntime.providers import CPU, CUDA, TENSORRT, Choice, choose, openvino_options
from coda_runtime.format.manifest import Artifact

FP32 = Artifact("encoder", "onnx", "fp32", "encoder.fp32.onnx", "0" * 64, 1)
BF16 = Artifact("encoder", "onnx", "bf16", "encoder.bf16.onnx", "0" * 64, 1)
PLUGIN = Plugin("onnxruntime-ep-openvino", "1.8.1", "onnxruntime_ep_openvino")


def device(provider: str, name: str = "CPU") -> Any:
    metadata = {"library_path": "/lib/plugin.so", **({"ov_device": name} if provider == OPENVINO else {})}
    return SimpleNamespace(
        ep_name=provider, ep_metadata=metadata, device=SimpleNamespace(type=SimpleNamespace(name=name))
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """machine([providers], gpus=..., ...): an onnxruntime on a machine of that kind."""

    def make(
        built_in: list[str],
        gpus: int = 0,
        conflict: bool = False,
        devices: Any = (),
        installed: Any = (),
        vendor: str | None = "GenuineIntel",
        processor: str = "x86_64",
    ) -> Any:
        monkeypatch.setattr(providers, "count_cuda_devices", lambda: gpus)
        monkeypatch.setattr(library, "onnxruntime_conflict", lambda: conflict)
        monkeypatch.setattr(plugins, "_registered", {})
        monkeypatch.setattr(plugins, "installed_plugins", lambda: list(installed))
        for module in (providers, plugins):
            monkeypatch.setattr(
                module, "describe_cpu", lambda: {"vendor": vendor, "model": "A CPU", "machine": processor}
            )
        return SimpleNamespace(get_available_providers=lambda: built_in, get_ep_devices=lambda: list(devices))

    return make


def test_devices_become_providers(machine: Any) -> None:
    ort = machine([CUDA, CPU], gpus=2)
    assert choose(ort, LoadOptions("cpu"), FP32) == [Choice(CPU)]
    assert choose(ort, LoadOptions("cuda"), FP32) == [Choice(CUDA, {"device_id": 0, "use_tf32": 0}), Choice(CPU)]
    (first, second) = choose(ort, LoadOptions("cuda:1"), FP32)
    assert (first.options["device_id"], first.device, second.device) == (1, "cuda:1", "cpu")
    assert choose(ort, LoadOptions("auto"), FP32) == choose(ort, LoadOptions("cuda"), FP32)
    assert choose(ort, LoadOptions("auto"), BF16)[0].name == CUDA
    with pytest.raises(DeviceError, match="the NVIDIA driver shows 2 GPUs"):
        choose(ort, LoadOptions("cuda:2"), FP32)


def test_cuda_s_libraries_are_loaded_for_its_providers_only(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    for asked, calls in ((LoadOptions("cpu"), 0), (LoadOptions("cuda"), 1), (LoadOptions(providers=[TENSORRT]), 1)):
        called: list[int] = []
        ort = machine([TENSORRT, CUDA, CPU], gpus=1)
        ort.preload_dlls = lambda called=called: called.append(1)
        choose(ort, asked, FP32)
        assert len(called) == calls


def test_auto_without_a_gpu_is_the_cpu(machine: Any) -> None:
    assert choose(machine([CUDA, CPU], gpus=0), LoadOptions(), FP32) == [Choice(CPU)]
    assert choose(machine([CPU], gpus=1), LoadOptions(), FP32) == [Choice(CPU)]


def test_tf32_stays_off_where_a_provider_is_named(machine: Any) -> None:
    ort = machine([TENSORRT, CUDA, CPU], gpus=2)
    assert choose(ort, LoadOptions(providers=[CUDA]), FP32)[0].options == {"device_id": 0, "use_tf32": 0}
    given = (CUDA, {"device_id": 1, "use_tf32": 1, "gpu_mem_limit": 9})
    assert choose(ort, LoadOptions(providers=[given]), FP32) == [Choice(CUDA, dict(given[1]))], "the user's word stands"
    assert choose(ort, LoadOptions("cuda:1", providers=[CUDA]), FP32)[0].device == "cuda:1"


def test_tensorrt_caches_nothing_and_keeps_float32(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = machine([TENSORRT, CUDA, CPU], gpus=1)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(DeviceError, match=r"TF32, not in float32.*NVIDIA_TF32_OVERRIDE=0 before Python starts"):
        choose(ort, LoadOptions(providers=[TENSORRT]), FP32)
    (bf16,) = choose(ort, LoadOptions(providers=[TENSORRT]), BF16)
    assert bf16.device == "cuda:0"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    (fp32,) = choose(ort, LoadOptions(providers=[(TENSORRT, {"trt_max_workspace_size": 5})]), FP32)
    off = {"trt_engine_cache_enable": False, "trt_timing_cache_enable": False, "trt_fp16_enable": False}
    assert fp32.options == {"device_id": 0, **off, "trt_int8_enable": False, "trt_max_workspace_size": 5}
    (int8,) = choose(ort, LoadOptions(providers=[TENSORRT]), dataclasses.replace(BF16, precision="int8"))
    assert int8.options["trt_int8_enable"] is True, "the scales of the graph"
    (cached,) = choose(ort, LoadOptions(providers=[(TENSORRT, {"trt_engine_cache_enable": True})]), FP32)
    assert cached.options["trt_engine_cache_enable"] is True


def test_bf16_without_a_gpu_is_openvinos(machine: Any) -> None:
    ort = machine([CPU], devices=[device(OPENVINO)], installed=[PLUGIN])
    for where in ("auto", "cpu"):
        (choice,) = choose(ort, LoadOptions(where), BF16)
        assert (choice.name, choice.device) == (OPENVINO, "openvino:cpu")
    assert choose(ort, LoadOptions(), FP32) == [Choice(CPU)]
    with pytest.raises(MissingDependencyError, match=r"encoder.bf16.onnx is in bf16.*pip install .*ep-openvino"):
        choose(machine([CPU]), LoadOptions(), BF16)


def test_bf16_on_a_processor_that_openvinos_plugin_does_not_take(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It registers and offers no device: neither to install it nor to reinstall it would help."""
    for cpu in ({"vendor": "AuthenticAMD"}, {"vendor": None, "processor": "aarch64"}):
        with pytest.raises(DeviceError, match=r"plugin takes no A CPU; pass backend=.openvino., run it .*fp32") as told:
            choose(machine([CPU], **cpu), LoadOptions(), BF16)
        assert "pip install" not in str(told.value)
    idle = r"onnxruntime-ep-openvino 1\.8\.1 is installed and offers no device for this processor \(A CPU\)"
    for asked, artifact in ((LoadOptions(), BF16), (LoadOptions(providers=[OPENVINO]), FP32)):
        ort = machine([CPU], installed=[PLUGIN], vendor="AuthenticAMD")
        monkeypatch.setitem(plugins._registered, OPENVINO, PLUGIN)
        with pytest.raises(DeviceError, match=idle) as told:
            choose(ort, asked, artifact)
        assert "pip install" not in str(told.value)
    # Elsewhere than on Linux an x86-64's vendor is not known, and the plugin may be what is missing.
    with pytest.raises(MissingDependencyError, match="onnxruntime-ep-openvino"):
        choose(machine([CPU], vendor=None), LoadOptions(), BF16)


def test_openvino_beside_onnxruntime_gpu_comes_without_another_onnxruntime(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "installed_version", {"onnxruntime-gpu": "1.31.1"}.get)
    with pytest.raises(MissingDependencyError, match=r'pip install "onnxruntime-ep-openvino>=[\d.]+"$'):
        choose(machine([CUDA, CPU]), LoadOptions("cpu"), BF16)


def test_openvinos_device_is_one_that_is_there(machine: Any) -> None:
    found = [device(OPENVINO), device(OPENVINO, "GPU.0"), device(OPENVINO, "GPU.1")]
    ort = machine([CPU], devices=found, installed=[PLUGIN])
    (gpu,) = choose(ort, LoadOptions(providers=[(OPENVINO, {"device_type": "gpu.1"})]), FP32)
    assert (gpu.devices, gpu.device) == ((found[2],), "openvino:gpu.1")
    with pytest.raises(DeviceError, match=r"OpenVINO has no NPU here, only CPU, GPU\.0, GPU\.1"):
        choose(ort, LoadOptions(providers=[(OPENVINO, {"device_type": "NPU"})]), FP32)


def test_a_numbered_device_of_a_plugin(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    found = [device(TENSORRT_RTX, "GPU"), device(TENSORRT_RTX, "GPU")]
    ort = machine([CPU], gpus=2, devices=found)
    (choice,) = choose(ort, LoadOptions("cuda:1", providers=[TENSORRT_RTX]), FP32)
    assert choice.devices[0] is found[1]
    assert choice.device == "cuda:1"
    with pytest.raises(DeviceError, match="has 2 devices here, and device_id is 2"):
        choose(ort, LoadOptions(providers=[(TENSORRT_RTX, {"device_id": 2})]), FP32)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (LoadOptions("cuda", providers=[CPU]), "device is 'cuda' and the first provider is CPUExecutionProvider"),
        (LoadOptions("cpu", providers=[CUDA]), "device is 'cpu' and the first provider is CUDAExecutionProvider"),
        (
            LoadOptions("cuda:1", providers=[(CUDA, {"device_id": 0})]),
            "'cuda:1' and .*CUDA.* with device_id 0",
        ),
        (LoadOptions("cpu", providers=[(OPENVINO, {"device_type": "GPU"})]), "make them agree"),
        (LoadOptions(providers=[(CUDA, 7)]), "expected names, or"),  # type: ignore[list-item]
        (LoadOptions(providers=[7]), "expected names, or"),  # type: ignore[list-item]
    ],
)
def test_contradictions_are_rejected(machine: Any, options: LoadOptions, told: str) -> None:
    with pytest.raises(InputError, match=told):
        choose(machine([CUDA, CPU], gpus=2, devices=[device(OPENVINO)]), options, FP32)


@pytest.mark.parametrize("name", [CUDA, TENSORRT])
def test_two_onnxruntimes_are_named_as_the_reason(machine: Any, name: str) -> None:
    with pytest.raises(DeviceError, match="both installed, and then only the CPU works; pip uninstall"):
        choose(machine([CPU], gpus=1, conflict=True), LoadOptions("cuda"), FP32)
    with pytest.raises(DeviceError, match="both installed"):
        choose(machine([CPU], gpus=1, conflict=True), LoadOptions(providers=[name]), FP32)


def test_a_missing_plugin_is_named(machine: Any) -> None:
    with pytest.raises(MissingDependencyError, match=r"OpenVINOExecutionProvider was asked for.*ep-openvino"):
        choose(machine([CPU]), LoadOptions(providers=[OPENVINO]), FP32)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime-ep-nv-tensorrt-rtx"):
        choose(machine([CPU]), LoadOptions(providers=[TENSORRT_RTX]), FP32)
    with pytest.raises(DeviceError, match="QNNExecutionProvider was asked for"):
        choose(machine([CPU]), LoadOptions(providers=["QNNExecutionProvider"]), FP32)


def config(options: dict[str, str]) -> Any:
    return json.loads(options["load_config"])


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("fp16", "f32"), ("bf16", None)])
def test_openvinos_precision_and_threads(precision: str, hint: str | None) -> None:
    where, options = openvino_options({}, precision, threads=3)
    expected = {"INFERENCE_NUM_THREADS": 3} | ({"INFERENCE_PRECISION_HINT": hint} if hint else {})
    assert (where, config(options)) == ("CPU", {"CPU": expected})


def test_what_the_user_says_of_openvino_stands(tmp_path: Path) -> None:
    text = '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 2}, "GPU": {"X": 1}}'
    (tmp_path / "config.json").write_text(text)
    for given in (text, str(tmp_path / "config.json")):
        _, options = openvino_options({"load_config": given, "cache_dir": "/c"}, "fp32", threads=1)
        cpu = {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 1}
        assert config(options) == {"CPU": cpu, "GPU": {"X": 1}}
        assert options["cache_dir"] == "/c"
    _, options = openvino_options({"load_config": '{"CPU": {"EXECUTION_MODE_HINT": "PERFORMANCE"}}'}, "fp32", None)
    assert "INFERENCE_PRECISION_HINT" not in config(options)["CPU"]
    where, options = openvino_options({"device_type": "gpu.1"}, "fp32", threads=2)
    assert (where, config(options)) == ("GPU.1", {"GPU": {"INFERENCE_PRECISION_HINT": "f32"}})
    assert openvino_options({}, "bf16", None) == ("CPU", {})


@pytest.mark.parametrize("given", ["not json", "{", "[]", '{"CPU": 1}', "/no/such/file.json"])
def test_a_load_config_that_is_no_json_is_rejected(given: str) -> None:
    with pytest.raises(InputError, match="load_config is"):
        openvino_options({"load_config": given}, "fp32", None)
