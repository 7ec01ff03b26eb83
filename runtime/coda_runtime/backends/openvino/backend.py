"""ONNX files on OpenVINO, by its own package and not by onnxruntime's plugin: on every CPU that it supports."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ...errors import (
    ArtifactError,
    BackendError,
    CodaError,
    DeviceError,
    DeviceMemoryError,
    InputError,
    MissingDependencyError,
)
from ...format.bundle import Bundle
from ...format.manifest import Artifact
from ...format.parts import SEARCHING
from ...format.precision import FP32, PRECISIONS, Precision, precision_of
from ...io.counts import count
from ...machine.processors import default_threads, describe_cpu, usable_count
from ...requirements import pip_install
from ..base import Backend, LoadOptions
from . import executed, integers, library
from .session import OpenVinoSession

_IN_FLOAT32 = (
    "sums of bytes overflow on this processor, so OpenVINO computes {0} graphs in float32, no faster than fp32; where "
    'the bundle has fp32, precision="fp32" loses nothing'
)


class OpenVinoBackend(Backend):
    """Loads `.onnx` files of encoders and decoders on the CPU."""

    name = library.NAME
    formats: tuple[str, ...] = ("onnx",)
    precisions: tuple[str, ...] | None = tuple(name for name, known in PRECISIONS.items() if known.openvino_pattern)

    def missing(self) -> MissingDependencyError | None:
        """Return None if the package openvino is installed."""
        return library.missing()

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Return why a file does not run here, None where it may: the package, the device, the part, bf16."""
        missing = self.missing()
        if missing is not None:
            return missing
        if options.providers is not None:
            return InputError("providers are onnxruntime's, and the backend openvino has none; leave them out")
        if options.cuda_index() is not None:
            return DeviceError(
                f'the backend openvino runs on the CPU, and device is {options.device!r}; pass device="cpu", or '
                "another backend"
            )
        if artifact.part in SEARCHING:
            return BackendError(
                f'{artifact.file} searches in a loop that OpenVINO does not run; leave it to backend="onnxruntime"'
            )
        try:
            if _lacks(artifact):
                return _without(artifact)
        except CodaError as error:
            return error
        return library.left_behind()

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> OpenVinoSession:
        """Load one file, and read back what it is computed in.

        Where sums of integers overflow on this processor they are left to float32, with a RuntimeWarning. Raises what
        `check` returns, ArtifactError, BackendError where OpenVINO computes in another precision than the file's,
        DeviceMemoryError.
        """
        problem = self.check(bundle, artifact, options)
        if problem is not None:
            raise problem
        precision, settings = precision_of(artifact.precision), _settings(artifact, options)
        computed = precision
        if precision.is_integer and not integers.are_exact():
            warnings.warn(_IN_FLOAT32.format(precision.name), RuntimeWarning, stacklevel=2)
            settings |= integers.WITHOUT
            computed = precision_of(FP32)

        def compile_model() -> Any:
            return _compile(bundle, artifact, settings, computed)

        return OpenVinoSession(library.load_library(), compile_model)


def _compile(bundle: Bundle, artifact: Artifact, settings: Mapping[str, Any], computed: Precision) -> Any:
    """Return a file's compiled model, which computes in `computed`. Raises ArtifactError, BackendError."""
    openvino, core, path = library.load_library(), library.core(), bundle.path(artifact)
    data = bundle.read(artifact)
    try:
        compiled = core.compile_model(core.read_model(data, b""), "CPU", dict(settings))
    except Exception as error:  # OpenVINO's are plain RuntimeErrors
        told = library.cause(error)
        if library.is_out_of_memory(error):
            raise DeviceMemoryError(f"no memory is left to load {path} ({told}); close what uses it") from error
        raise ArtifactError(
            f"openvino {openvino.__version__} cannot load {path} ({told}); the file is damaged, or this openvino is "
            f"too old or lacks an operator: {pip_install(library.NAME, options='--upgrade')}, or pass "
            'backend="onnxruntime"'
        ) from error
    if len(compiled.inputs) != 1 or len(compiled.outputs) != 1:
        raise ArtifactError(
            f"{path} has {count(len(compiled.inputs), 'input')} and {count(len(compiled.outputs), 'output')}; expected "
            "one of each; export it again"
        )
    problem = executed.problem(compiled, computed, artifact.file)
    if problem is not None:
        raise problem
    return compiled


def _settings(artifact: Artifact, options: LoadOptions) -> dict[str, Any]:
    """Return the properties that a file is compiled with."""
    precision = precision_of(artifact.precision)
    settings: dict[str, Any] = {
        # Left to itself it computes in the lowest type that the processor has.
        "INFERENCE_PRECISION_HINT": precision.openvino_hint or precision.openvino_pattern,
        # Pinned, the threads of two processes would sit on the same cores.
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": 1,
    }
    if options.threads is not None:
        # One stream runs one call at a time: callers side by side have one each, as many as the processors hold.
        streams = max(1, usable_count() // options.threads)
        settings |= {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": options.threads * streams}
    elif (threads := default_threads()) is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _lacks(artifact: Artifact) -> bool:
    """Return whether the processor lacks a floating-point type that only some have."""
    precision = precision_of(artifact.precision)
    needs_type = precision.is_lowered and not precision.is_integer
    return needs_type and precision.openvino_pattern.upper() not in library.capabilities()


def _without(artifact: Artifact) -> DeviceError:
    cpu = describe_cpu()
    return DeviceError(
        f"{artifact.file} is in {artifact.precision}, in which this processor ({cpu['model'] or cpu['machine']}) does "
        'not compute; run it on a GPU, or, if the bundle has fp32 too, pass precision="fp32"'
    )
