"""ONNX files on onnxruntime. Where it was asked to run is where it runs: fallback is off and the result is checked."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..devices import count_cuda_devices, onnxruntime_conflict
from ..errors import ArtifactError, BackendError, DeviceError, InputError, MissingDependencyError
from ..manifest import Artifact
from .base import LoadOptions, Provider, Session

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_SILENT = 4  # fatal only: what goes wrong is raised, and stderr belongs to the caller


class OnnxRuntimeBackend:
    """Loads `.onnx` files, on the CPU or (not run on a GPU yet) by CUDA."""

    name = "onnxruntime"
    formats: tuple[str, ...] = ("onnx",)

    def unavailable(self) -> MissingDependencyError | None:
        """None if onnxruntime is installed, of whichever distribution."""
        if importlib.util.find_spec("onnxruntime") is not None:
            return None
        return MissingDependencyError(
            "running ONNX files needs onnxruntime, which is not here (on an NVIDIA GPU take [gpu] in place of [cpu])",
            "cpu",
        )

    def load(self, path: Path, artifact: Artifact, options: LoadOptions) -> Session:
        """Load one file. Raises ArtifactError, DeviceError, InputError, MissingDependencyError."""
        ort = _import()
        providers = _choose_providers(ort, options)
        settings = ort.SessionOptions()
        settings.log_severity_level = _SILENT
        # A bundle is three sessions, each with its own threads: those of a part that has finished would spin on the
        # cores that the next part needs. benchmarks/bench_runtime.py measures it.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        try:
            session = ort.InferenceSession(str(path), settings, providers=providers)
        except Exception as error:  # onnxruntime's errors have no common base, and plain RuntimeErrors come too
            raise ArtifactError(
                f"onnxruntime {ort.__version__} cannot load {path} on {_names(providers)} ({_first_line(error)}); "
                "the file is damaged, or this onnxruntime is too old or lacks an operator: "
                'pip install -U "coda-runtime[cpu]", or choose another precision'
            ) from error
        session.disable_fallback()
        wanted, got = [_name(provider) for provider in providers], session.get_providers()
        if got[: len(wanted)] != wanted:
            raise DeviceError(
                f"asked onnxruntime for {', '.join(wanted)} and it runs {path.name} on {', '.join(got)}: the provider "
                'is installed but does not start; see `coda doctor`, or pass device="cpu"'
            )
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ArtifactError(
                f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each; export it again"
            )
        return OnnxRuntimeSession(ort, session, _device(providers[0]))


class OnnxRuntimeSession:
    """One `InferenceSession`, with one input and one output."""

    def __init__(self, ort: Any, session: Any, device: str) -> None:
        self.device = device
        self._session = session
        self._input: str = session.get_inputs()[0].name
        self._outputs: list[str] = [session.get_outputs()[0].name]
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = _SILENT

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph and return its output, a new array. Raises BackendError."""
        try:
            result = self._session.run(self._outputs, {self._input: batch}, self._quiet)[0]
        except Exception as error:  # see load
            raise BackendError(
                f"onnxruntime failed on {batch.dtype} {list(batch.shape)} ({_first_line(error)}); "
                "if memory ran out use smaller batches, otherwise export the bundle again"
            ) from error
        return np.asarray(result)

    def close(self) -> None:
        """Drop the session, which frees its memory."""
        self._session = None


def _import() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        missing = OnnxRuntimeBackend().unavailable()
        if missing is not None:
            raise missing from error
        raise BackendError(f"onnxruntime is installed but lacks {error.name}; reinstall it") from error
    except ImportError as error:
        # Ctrl-C inside an extension's start comes out as an ImportError.
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise BackendError(
            f"onnxruntime is installed but does not import ({_first_line(error)}); reinstall it: "
            'pip install --force-reinstall "coda-runtime[cpu]"'
        ) from error


def _choose_providers(ort: Any, options: LoadOptions) -> list[Provider]:
    available: list[str] = ort.get_available_providers()
    index = options.cuda_index()
    if options.providers is not None:
        providers = [_check_provider(provider) for provider in options.providers]
        asked = _device(providers[0]).partition(":")[0]
        if options.device != "auto" and asked != options.device.partition(":")[0]:
            raise InputError(
                f"device is {options.device!r} and the first provider is {_name(providers[0])}; "
                'pass providers with device="auto", or make them agree'
            )
    elif options.device == "cpu":
        providers = [_CPU]
    elif index is None:
        # "auto" asks the driver, so that onnxruntime-gpu on a machine without a GPU means the CPU and no error.
        use_cuda = _CUDA in available and count_cuda_devices() > 0
        providers = [_cuda(0), _CPU] if use_cuda else [_CPU]
    else:
        providers = [_cuda(index), _CPU]
    missing = [_name(provider) for provider in providers if _name(provider) not in available]
    if missing:
        raise DeviceError(_explain_missing(missing[0], options.device, available))
    found = count_cuda_devices() if options.providers is None and index is not None else None
    if found is not None and index is not None and index >= found:
        raise DeviceError(
            f"device is {options.device!r}, and the NVIDIA driver shows {found} GPUs here; "
            'pass device="cpu", or check nvidia-smi and CUDA_VISIBLE_DEVICES'
        )
    return providers


def _cuda(index: int) -> Provider:
    # TF32 rounds a float32 product to 10 bits, which changes 5 to 10 % of the tokens.
    return (_CUDA, {"device_id": index, "use_tf32": 0})


def _explain_missing(provider: str, device: str, available: Sequence[str]) -> str:
    asked = f"device {device!r} needs {provider}" if provider == _CUDA else f"{provider} was asked for"
    text = f"{asked}, and this onnxruntime has only {', '.join(available)}"
    if provider != _CUDA:
        return f"{text}; install the onnxruntime that has it, or choose another provider"
    if onnxruntime_conflict():
        return (
            f"{text}: onnxruntime and onnxruntime-gpu are both installed, and then only the CPU works; "
            'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "coda-runtime[gpu]"'
        )
    return (
        f'{text}; pass device="cpu", or on a machine with an NVIDIA GPU: '
        'pip uninstall -y onnxruntime && pip install "coda-runtime[gpu]"'
    )


def _check_provider(provider: object) -> Provider:
    if isinstance(provider, str):
        return provider
    if isinstance(provider, Sequence) and len(provider) == 2 and isinstance(provider[0], str):
        return (provider[0], dict(provider[1]))
    raise InputError(f"providers holds {provider!r}; expected names, or (name, options) pairs")


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _names(providers: Sequence[Provider]) -> str:
    return ", ".join(map(_name, providers))


def _device(provider: Provider) -> str:
    name = _name(provider)
    if name == _CPU:
        return "cpu"
    options = {} if isinstance(provider, str) else provider[1]
    if name in (_CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"):
        return f"cuda:{options.get('device_id', 0)}"
    return name.removesuffix("ExecutionProvider").lower()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
