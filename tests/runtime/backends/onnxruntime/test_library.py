from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coda_runtime import BackendError, DeviceMemoryError
from coda_runtime.backends.onnxruntime import library
from coda_runtime.backends.onnxruntime.session import OrtSession

# As users have reported them of onnxruntime, CUDA, cuBLAS and TensorRT.
OUT_OF_MEMORY = [
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'/patch_embed/Conv' Status Message: \n/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, "
    "onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size 2830172160",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Status Message: BFCArena::AllocateRawInternal Available memory of "
    "34699008 is smaller than requested bytes of 945041920",
    "[ONNXRuntimeError] : 1 : FAIL : cuda_call.cc:121 onnxruntime::CudaCall CUDA failure 2: out of memory ; GPU=0 ; "
    "expr=cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Name:'fc1' Status Message: CUBLAS failure 3: "
    "CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
    "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cudnnCreate(&cudnn_handle_);",
    "[virtualMemoryBuffer.cpp::resizePhysical::144] Error Code 2: OutOfMemory (no further information)",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: bad allocation",
    "std::bad_alloc",
]
OTHER = [
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: image",
    "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Conv(22) node",
    "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1",
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:255 Check failed",
    "CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED",
    "",
]


@pytest.mark.parametrize("message", OUT_OF_MEMORY)
def test_memory_that_ran_out_is_recognised(message: str) -> None:
    assert library.is_out_of_memory(message)


@pytest.mark.parametrize("message", OTHER)
def test_other_failures_are_not_taken_for_it(message: str) -> None:
    assert not library.is_out_of_memory(message)


@pytest.mark.parametrize(("message", "kind"), [(OUT_OF_MEMORY[0], DeviceMemoryError), (OTHER[0], BackendError)])
def test_a_run_raises_by_what_failed(message: str, kind: type[Exception]) -> None:
    def run(*_: object) -> None:
        raise RuntimeError(message)

    node = SimpleNamespace(name="x")
    broken = SimpleNamespace(get_inputs=lambda: [node], get_outputs=lambda: [node], run=run)
    session = OrtSession(SimpleNamespace(RunOptions=SimpleNamespace), broken, "cuda:1")
    with pytest.raises(BackendError, match=r"cuda:1.*uint8 \[9, 2\]|uint8 \[9, 2\] on cuda:1") as caught:
        session.run(np.zeros((9, 2), np.uint8))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert ("fewer images at a time" in str(caught.value)) == (kind is DeviceMemoryError)


def test_the_line_that_tells_something_is_taken() -> None:
    error = RuntimeError(
        "[ONNXRuntimeError] : 11 : EP_FAIL : Exception from src/inference/src/cpp/core.cpp:117:\n"
        "Exception from src/plugins/intel_cpu/src/config.cpp:505:\nNotFound: Unsupported property BAD by CPU plugin.\n"
    )
    assert library.cause(error) == "NotFound: Unsupported property BAD by CPU plugin."
    assert library.cause(RuntimeError("one\ntwo")) == "one"
    assert library.cause(ValueError()) == "ValueError"


def test_two_onnxruntimes_are_the_advice_for_a_library_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> Any:
        raise ImportError("libonnxruntime.so: undefined symbol")

    monkeypatch.setattr(library.importlib, "import_module", fail)
    with pytest.raises(BackendError, match=r"undefined symbol.*--force-reinstall"):
        library.load_library()
    monkeypatch.setattr(library, "onnxruntime_conflict", lambda: True)
    with pytest.raises(BackendError, match=r"undefined symbol.*both installed.*pip uninstall -y onnxruntime"):
        library.load_library()


class TestPreloading:
    def test_it_is_done_once_and_says_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        calls = []

        def preload() -> None:
            calls.append(1)
            other = threading.Thread(target=lambda: sys.stdout.write("another thread's\n"))
            other.start()
            other.join()
            sys.stdout.write("Failed to load libcudnn.so.9\n")
            warnings.warn("no plugin", stacklevel=1)
            raise RuntimeError("Invalid parameter of directory")

        ort = SimpleNamespace(preload_dlls=preload)
        for _ in range(2):
            library.preload_cuda(ort)
        assert calls == [1]
        assert capsys.readouterr() == ("another thread's\n", "")
        sys.stdout.write("after\n")
        assert capsys.readouterr().out == "after\n"

    def test_an_onnxruntime_from_before_1_21(self) -> None:
        library.preload_cuda(SimpleNamespace())

    def test_the_real_one(self, capfd: pytest.CaptureFixture[str]) -> None:
        library.preload_cuda(library.load_library())
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("asked", [None, "true"])
def test_telemetry_is_off_unless_the_user_says_otherwise(tmp_path: Path, asked: str | None) -> None:
    """onnxruntime leaves a device id in the user's cache when its telemetry starts."""
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment = {**kept, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    if asked is not None:
        environment["ORT_DISABLE_TELEMETRY"] = asked
    code = "import os; from coda_runtime.backends.onnxruntime.library import load_library; load_library()"
    code += "; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (asked or "1")
    if asked is None:
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
