from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from coda_runtime import ArtifactError, BackendError, DeviceError, InputError, load
from coda_runtime.backends import LoadOptions, onnxruntime_backend
from coda_runtime.backends.onnxruntime_backend import OnnxRuntimeBackend, _choose_providers
from tests.runtime import tiny

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def _machine(monkeypatch: pytest.MonkeyPatch, providers: list[str], gpus: int, conflict: bool = False) -> Any:
    monkeypatch.setattr(onnxruntime_backend, "count_cuda_devices", lambda: gpus)
    monkeypatch.setattr(onnxruntime_backend, "onnxruntime_conflict", lambda: conflict)
    return SimpleNamespace(get_available_providers=lambda: providers)


def test_cuda_is_refused_here(sealed: Path) -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=r'pass device="cpu", or .*coda-runtime\[gpu\]'):
            load(sealed, device)
    with pytest.raises(DeviceError, match="TensorrtExecutionProvider was asked for"):
        load(sealed, providers=["TensorrtExecutionProvider"])


def test_devices_become_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = _machine(monkeypatch, [CUDA, CPU], gpus=2)
    assert _choose_providers(ort, LoadOptions("cpu")) == [CPU]
    assert _choose_providers(ort, LoadOptions("cuda")) == [(CUDA, {"device_id": 0, "use_tf32": 0}), CPU]
    assert _choose_providers(ort, LoadOptions("cuda:1"))[0] == (CUDA, {"device_id": 1, "use_tf32": 0})
    assert _choose_providers(ort, LoadOptions("auto")) == _choose_providers(ort, LoadOptions("cuda"))
    assert _choose_providers(ort, LoadOptions(providers=[(CUDA, {"device_id": 1})])) == [(CUDA, {"device_id": 1})]
    with pytest.raises(DeviceError, match="the NVIDIA driver shows 2 GPUs"):
        _choose_providers(ort, LoadOptions("cuda:2"))


def test_auto_without_a_gpu_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _choose_providers(_machine(monkeypatch, [CUDA, CPU], gpus=0), LoadOptions()) == [CPU]
    assert _choose_providers(_machine(monkeypatch, [CPU], gpus=1), LoadOptions()) == [CPU]


def test_two_onnxruntimes_are_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = _machine(monkeypatch, [CPU], gpus=1, conflict=True)
    with pytest.raises(DeviceError, match="both installed, and then only the CPU works; pip uninstall"):
        _choose_providers(ort, LoadOptions("cuda"))


def test_device_and_providers_must_agree(sealed: Path) -> None:
    with load(sealed, "cpu", providers=[CPU]) as tok:
        assert tok.artifacts[0].device == "cpu"
    with pytest.raises(InputError, match="device is 'cuda' and the first provider is CPUExecutionProvider"):
        load(sealed, "cuda", providers=[CPU])


def test_a_provider_that_does_not_start_is_an_error(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime_backend._import()

    class Session:
        def __init__(self, path: str, settings: Any, providers: Any) -> None:
            self.session = real.InferenceSession(path, settings, providers=[CPU])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

    names = ("SessionOptions", "RunOptions", "__version__")
    fallen = SimpleNamespace(InferenceSession=Session, **{name: getattr(real, name) for name in names})
    fallen.get_available_providers = lambda: [CUDA, CPU]
    monkeypatch.setattr(onnxruntime_backend, "_import", lambda: fallen)
    monkeypatch.setattr(onnxruntime_backend, "count_cuda_devices", lambda: 1)
    with pytest.raises(DeviceError, match=r"asked onnxruntime for CUDAExecutionProvider, .*runs .* on CPUExecution"):
        load(sealed)


def _save_model(path: Path, kind: int, inputs: int = 1, op: str = "Identity") -> Path:
    names = [f"x{i}" for i in range(inputs)]
    infos = [helper.make_tensor_value_info(name, kind, ["B", 2, 2, 2]) for name in names]
    out = [helper.make_tensor_value_info("y", kind, None)]
    nodes = [helper.make_node(op, names if op != "Conv" else ["x0", "x0"], ["y"])]
    graph = helper.make_graph(nodes, "g", infos, out)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path


@pytest.mark.parametrize("case", ["text", "empty", "bf16", "operator"])
def test_files_that_do_not_load_give_one_line(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "encoder.fp32.onnx"
    if case == "bf16":
        _save_model(path, TensorProto.BFLOAT16, op="Conv")
    elif case == "operator":
        _save_model(path, TensorProto.FLOAT, op="NoSuchOperator")
    else:
        path.write_text("" if case == "empty" else "this is no ONNX file")
    with pytest.raises(ArtifactError, match=r"cannot load .*encoder\.fp32\.onnx on CPU.*pip install -U") as caught:
        OnnxRuntimeBackend().load(path, tiny.describe(tmp_path, path.name), LoadOptions())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_with_two_inputs_is_refused(tmp_path: Path) -> None:
    path = _save_model(tmp_path / "encoder.fp32.onnx", TensorProto.FLOAT, inputs=2, op="Add")
    with pytest.raises(ArtifactError, match="has 2 inputs and 1 outputs"):
        OnnxRuntimeBackend().load(path, tiny.describe(tmp_path, path.name), LoadOptions())


def test_a_run_that_fails_gives_one_line(sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = tiny.describe(sealed, tiny.FILES[0])
    session = OnnxRuntimeBackend().load(sealed / artifact.file, artifact, LoadOptions())
    for wrong in (np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 5, 5, 3), np.uint8)):
        with pytest.raises(BackendError, match="onnxruntime failed on") as caught:
            session.run(wrong)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_without_onnxruntime_the_pip_line_is_given(sealed: Path) -> None:
    code = f"""
import sys, importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "onnxruntime" else real(name, *rest)
sys.modules["onnxruntime"] = None
import coda_runtime
try:
    coda_runtime.load({str(sealed)!r})
except coda_runtime.MissingDependencyError as error:
    assert 'pip install "coda-runtime[cpu]"' in str(error), error
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
