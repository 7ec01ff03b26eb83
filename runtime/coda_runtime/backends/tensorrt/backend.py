"""TensorRT and TensorRT-RTX engines, run without PyTorch.

Both libraries have one API, so there is one implementation, and the library's module is what differs.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from ...errors import (
    BackendError,
    CodaError,
    DeviceError,
    EngineMismatchError,
    InputError,
    MissingDependencyError,
    one_line,
)
from ...format import engine_key as key
from ...format.bundle import Bundle
from ...format.manifest import Artifact
from ...machine.devices import find_gpu
from ...requirements import onnx_on_the_cpu, pip_install
from ..base import Backend, LoadOptions
from ..cuda.layer import DeviceLayer
from ..cuda.opening import compute_capability, gpu_name, missing, open_device
from .engine import Engine
from .inspection import EngineFacts, engine_information
from .kernel_cache import kernel_cache
from .library import check_version, find_library, module_name, targets_of
from .library import missing as library_missing
from .session import TensorRTSession

_LEAN = "tensorrt_lean"


class TensorRTBackend(Backend):
    """Loads TensorRT engines."""

    name = "tensorrt"
    formats: tuple[str, ...] = ("tensorrt",)
    precisions: tuple[str, ...] | None = None

    def missing(self) -> MissingDependencyError | None:
        """Return None if TensorRT (or its lean runtime) and cuda-core are installed."""
        if module_name(self.name) is None and not self._has_lean():
            return library_missing(self.name)
        return missing(self.name)

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Return why an engine may not load here, None where it may: the library, the GPU, the engine's key."""
        found = self.missing()
        if found is not None:
            return found
        if options.providers is not None:
            return InputError(
                f"providers are onnxruntime's, and {artifact.file} is an engine; leave them out, or pass "
                'backend="onnxruntime"'
            )
        if options.device == "cpu":
            return DeviceError(
                f'{artifact.file} runs on an NVIDIA GPU only, and device is "cpu"; on the CPU the ONNX files run'
                f"{onnx_on_the_cpu()}"
            )
        index = options.cuda_index() or 0
        try:
            capability, gpu = compute_capability(index), gpu_name(index)
            trt = self._module(artifact)
        except CodaError as error:
            return error
        mismatch = key.incompatibility(
            artifact,
            bundle.manifest,
            library=self.name,
            library_version=trt.__version__,
            compute_capability=capability,
            gpu=gpu,
            targets=targets_of(trt),
        )
        if mismatch is None and _is_version_compatible(artifact) and not options.allow_host_code:
            return EngineMismatchError(
                f"{artifact.file} is version-compatible, which means that it brings code for the CPU; it only loads "
                "with allow_host_code=True (--allow-host-code): pass that if you trust the bundle. "
                f"{key.rebuild(artifact, self.name)}"
            )
        return mismatch

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> TensorRTSession:
        """Load an engine. Raises what `check` returns, ArtifactError, EngineMismatchError, DeviceMemoryError."""
        _, layer, engine = self._open(bundle, artifact, options)
        return TensorRTSession(engine, layer, library=self.name)

    def facts(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> EngineFacts:
        """Return what an engine tells of itself. Raises as `load` does."""
        trt, layer, engine = self._open(bundle, artifact, options)
        with layer.active():
            try:
                scratch = tuple(map(engine.scratch_bytes, range(len(engine.profiles))))
                return EngineFacts(engine_information(engine.raw, trt), scratch)
            finally:
                engine.close()

    def _open(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> tuple[Any, DeviceLayer, Engine]:
        problem = self.check(bundle, artifact, options)
        if problem is not None:
            raise problem
        trt, path, data = self._module(artifact), bundle.path(artifact), bundle.read(artifact)
        index = options.cuda_index() or 0
        layer, gpu = open_device(index), find_gpu(index)
        kernels = kernel_cache(trt, artifact.sha256, gpu_name(index), compute_capability(index), gpu and gpu.driver)
        with layer.active():
            engine = Engine(
                trt,
                path,
                data,
                artifact,
                key.rebuild(artifact, self.name),
                allow_host_code=options.allow_host_code,
                kernels=kernels,
            )
        return trt, layer, engine

    def _module(self, artifact: Artifact) -> Any:
        """Import the library; or the lean runtime, which runs version-compatible engines, if only that is installed.

        Raises MissingDependencyError, BackendError.
        """
        if module_name(self.name) is not None or not self._has_lean():
            return find_library(self.name).module
        if not _is_version_compatible(artifact):
            raise MissingDependencyError(
                f"only TensorRT's lean runtime is here, and {artifact.file} is not version-compatible, so it needs all "
                f"of TensorRT (or coda build BUNDLE --engine {self.name} --version-compatible)",
                extra=self.name,
            )
        try:
            lean = importlib.import_module(_LEAN)
        except (ImportError, OSError) as error:
            raise BackendError(
                f"TensorRT's lean runtime is installed but does not import ({one_line(error)}); "
                f"reinstall it: {pip_install('tensorrt-lean', options='--force-reinstall')}"
            ) from error
        check_version(self.name, lean.__version__)
        return lean

    def _has_lean(self) -> bool:
        return self.name == "tensorrt" and importlib.util.find_spec(_LEAN) is not None


class TensorRTRTXBackend(TensorRTBackend):
    """Loads TensorRT-RTX engines."""

    name = "tensorrt-rtx"
    formats: tuple[str, ...] = ("tensorrt-rtx",)


def _is_version_compatible(artifact: Artifact) -> bool:
    return key.EngineKey.from_json(artifact.engine).flags.version_compatible
