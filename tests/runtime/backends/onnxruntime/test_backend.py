from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from coda_runtime import ArtifactError, BackendError, DeviceError, DeviceMemoryError, InputError, load
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.onnxruntime import library, providers
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.backends.onnxruntime.session import OrtDeviceSession
from coda_runtime.format.bundle import Bundle
from tests.runtime import tiny
from tests.runtime.backends.onnxruntime import graphs

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_cuda_is_rejected_here(sealed: Path) -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=r'pass device="cpu", or .*pip install .*onnxruntime-gpu\[cuda,cudnn\]>='):
            load(sealed, device, "onnxruntime")
    with pytest.raises(DeviceError, match="TensorrtExecutionProvider was asked for"):
        load(sealed, providers=["TensorrtExecutionProvider"])


def test_threads_take_no_processor_after_a_run(tmp_path: Path) -> None:
    session = OnnxRuntimeBackend().load(*graphs.write_convolutions(tmp_path, "fp32"), LoadOptions("cpu", threads=4))
    spent = []
    for _ in range(3):
        for _ in range(20):
            session.run(graphs.images())
        before = time.process_time()
        time.sleep(0.3)
        spent.append(time.process_time() - before)
    session.close()
    assert min(spent) < 0.02  # by onnxruntime's own settings 0.05 s a thread


def test_device_and_providers_must_agree(sealed: Path) -> None:
    with load(sealed, "cpu", providers=[CPU]) as tok:
        assert tok.artifacts[0].device == "cpu"
    with pytest.raises(InputError, match="device is 'cuda' and the first provider is CPUExecutionProvider"):
        load(sealed, "cuda", providers=[CPU])


def _fake(monkeypatch: pytest.MonkeyPatch, make: Any) -> SimpleNamespace:
    """An onnxruntime-gpu on a machine with a GPU, whose sessions `make(real, path)` makes; collects their settings."""
    real = library.load_library()
    made: list[Any] = []

    def session(path: str, settings: Any, providers: Any = None, enable_fallback: int = 1) -> Any:
        made.append(SimpleNamespace(settings=settings, providers=providers, enable_fallback=enable_fallback))
        return make(real, path)

    names = ("SessionOptions", "RunOptions", "OrtValue", "__version__", "get_ep_devices")
    fake = SimpleNamespace(InferenceSession=session, made=made, **{name: getattr(real, name) for name in names})
    fake.severities = []
    fake.set_default_logger_severity = fake.severities.append
    fake.get_available_providers = lambda: [CUDA, CPU]
    monkeypatch.setattr(library, "load_library", lambda: fake)
    monkeypatch.setattr(providers, "count_cuda_devices", lambda: 1)
    return fake


class Pretended:
    """A session on the CPU that says it is CUDA's, and leaves `left` to the CPU: operators, of nodes without a name."""

    def __init__(self, real: Any, path: str, left: tuple[str, ...] = ()) -> None:
        self.session, self.left = real.InferenceSession(path, providers=[CPU]), left

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [SimpleNamespace(op_type=op, name="") for op in self.left]
        return [SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes)]


class Silent(Pretended):
    """As of onnxruntime 1.23, which does not tell what it runs where."""

    def __getattribute__(self, name: str) -> Any:
        if name == "get_provider_graph_assignment_info":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if name == "get_provider_graph_assignment_info":
            raise AttributeError(name)
        return super().__getattr__(name)


def test_a_provider_that_does_not_start_is_an_error(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, lambda real, path: real.InferenceSession(path, providers=[CPU]))
    with pytest.raises(DeviceError, match=r"asked onnxruntime for CUDAExecutionProvider, .*runs .* on CPUExecution"):
        load(sealed, backend="onnxruntime")


def test_cuda_gets_a_session_that_keeps_arrays_on_the_gpu(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny.describe(sealed, tiny.FILES[0])
    fake = _fake(monkeypatch, lambda real, path: Pretended(real, path, ("Shape", "Gather")))
    session = OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions("cuda", threads=2))
    assert isinstance(session, OrtDeviceSession)
    assert session.device == "cuda:0"
    (made,) = fake.made
    assert made.providers == [(CUDA, {"device_id": 0, "use_tf32": 0}), CPU]
    assert made.enable_fallback == 0
    assert made.settings.intra_op_num_threads == 2
    assert fake.severities == [library.SILENT], "what no session owns would be written to stderr"


@pytest.mark.parametrize(("named", "strict"), [([CUDA], "1"), ([CUDA, CPU], "0")])
def test_a_provider_named_alone_must_take_the_graph(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, named: list[str], strict: str
) -> None:
    artifact = tiny.describe(sealed, tiny.FILES[0])
    fake = _fake(monkeypatch, Pretended)
    OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions(providers=named))
    settings = fake.made[0].settings
    try:
        found = settings.get_session_config_entry("session.disable_cpu_ep_fallback")
    except RuntimeError:  # not set
        found = "0"
    assert found == strict


@pytest.mark.parametrize("left", ["Conv", "InstanceNormalization", "Pad", "ReduceMax", "Scan", "Softmax"])
def test_what_is_no_shape_on_the_cpu_is_an_error_for_a_gpu(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    artifact = tiny.describe(sealed, tiny.FILES[0])
    _fake(monkeypatch, lambda real, path: Pretended(real, path, ("Shape", "Div", "Concat", left)))
    with pytest.raises(DeviceError, match=rf"CUDAExecutionProvider leaves {left} of .* to the CPU"):
        OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions("cuda"))
    session = OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions(providers=[CUDA, CPU]))
    assert session.device == "cuda:0+cpu", "the caller allowed it, and is told"


def test_int8_reaches_a_gpu_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/cuda_kernels/test_wheels.py sees why: otherwise each bias comes from the CPU."""
    fake = _fake(monkeypatch, Pretended)
    OnnxRuntimeBackend().load(*graphs.write_quantised(tmp_path), LoadOptions("cuda"))
    assert fake.made[0].settings.get_session_config_entry("session.disable_quant_qdq") == "1"


def test_an_onnxruntime_that_does_not_tell_is_not_believed(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny.describe(sealed, tiny.FILES[0])
    _fake(monkeypatch, Silent)
    with pytest.raises(DeviceError, match=r"does not tell what of .* on the CPU; update it: pip install --upgrade"):
        OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions("cuda"))
    session = OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions(providers=[CUDA, CPU]))
    assert session.device == "cuda:0", "the caller named both"


def test_a_provider_that_takes_nothing_leaves_all_to_the_cpu(tmp_path: Path) -> None:
    """Azure's is there, and none of its kernels: a real session of two providers, which tells what it placed."""
    named = LoadOptions(providers=["AzureExecutionProvider", CPU])
    session = OnnxRuntimeBackend().load(*graphs.write_convolutions(tmp_path, "fp32"), named)
    assert session.device == "azure+cpu"


def test_no_memory_to_load(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(real: Any, path: str) -> Any:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory ; GPU=0")

    artifact = tiny.describe(sealed, tiny.FILES[0])
    _fake(monkeypatch, fail)
    with pytest.raises(DeviceMemoryError, match=r"cuda:0 has no memory left to load .*encoder"):
        OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions("cuda"))


def load_alone(path: Path) -> None:
    artifact = tiny.describe(path.parent, path.name)
    OnnxRuntimeBackend().load(tiny.alone(path.parent, artifact), artifact, LoadOptions())


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
        _save_model(path, TensorProto.FLOAT, op="Swish")
    else:
        path.write_text("" if case == "empty" else "this is no ONNX file")
    words = r"cannot load .*encoder\.fp32\.onnx on CPU.*pip install --upgrade"
    if case in ("text", "empty"):
        words = r"encoder\.fp32\.onnx is not an ONNX model: .*export the bundle again"
    with pytest.raises(ArtifactError, match=words) as caught:
        load_alone(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_with_two_inputs_is_rejected(tmp_path: Path) -> None:
    path = _save_model(tmp_path / "encoder.fp32.onnx", TensorProto.FLOAT, inputs=2, op="Add")
    with pytest.raises(ArtifactError, match="has 2 inputs and 1 output"):
        load_alone(path)


def test_a_run_that_fails_gives_one_line(sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = tiny.describe(sealed, tiny.FILES[0])
    session = OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions())
    for wrong in (np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 5, 5, 3), np.uint8)):
        with pytest.raises(BackendError, match="onnxruntime failed on") as caught:
            session.run(wrong)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_two_onnxruntimes_are_the_advice_where_a_file_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save_model(tmp_path / "encoder.fp32.onnx", TensorProto.FLOAT, op="Swish")
    monkeypatch.setattr(library, "onnxruntime_conflict", lambda: True)
    with pytest.raises(ArtifactError, match=r"both installed.*pip uninstall .*pip install .onnxruntime>="):
        load_alone(path)


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
    assert 'pip install "onnxruntime>=' in str(error), error
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
