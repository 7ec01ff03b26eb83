"""A deserialised engine: its one input and one output, its batch profiles, its contexts."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArtifactError, CodaError, EngineMismatchError
from ...format.manifest import Artifact
from ...format.parts import PARTS
from ...format.profiles import Batch, profiles_text
from ...io.counts import count
from ..cuda.layer import Stream
from .kernel_cache import KernelCache
from .messages import Messages


@dataclass(frozen=True)
class Tensor:
    """An input or output. `shape` is that of one image, without the batch."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def nbytes(self, count: int) -> int:
        """Return the bytes of `count` images."""
        return count * math.prod(self.shape) * self.dtype.itemsize


class Engine:
    """An engine and what it was loaded with. `trt` is the module of TensorRT, or of TensorRT-RTX: one API.

    `data` are the bytes of the file at `path`. `kernels` are what TensorRT-RTX compiled of it before.
    Raises EngineMismatchError if TensorRT does not take the file, ArtifactError if it is not what the manifest says.
    """

    def __init__(
        self,
        trt: Any,
        path: Path,
        data: bytes,
        artifact: Artifact,
        rebuild: str,
        *,
        allow_host_code: bool,
        kernels: KernelCache | None = None,
    ) -> None:
        self.name = path.name
        self.rebuild = rebuild
        self.messages = Messages(trt)
        self._trt = trt
        self._kernels = kernels
        with self.messages.calls(f"TensorRT does not start for {path.name}", "see `coda doctor`"):
            runtime = trt.Runtime(self.messages.logger)
            if allow_host_code:
                runtime.engine_host_code_allowed = True
            raw = runtime.deserialize_cuda_engine(data)
        if raw is None:
            raise EngineMismatchError(
                f"TensorRT {trt.__version__} cannot load {path} ({self.messages.first()}): it was built by another "
                f"version, for another GPU, or is damaged. {rebuild}"
            )
        self._runtime = runtime
        self.raw = raw
        self.input, self.output, self.profiles = _read(trt, raw, path, artifact, rebuild)

    def create_context(self, profile: int, stream: Stream, count: int | None, scratch: int, nbytes: int) -> Any:
        """Return a context of a profile that works in the memory at `scratch`, for `count` images only or for any.

        `profile` is its index, and `stream` what the context is going to run on. Raises BackendError,
        DeviceMemoryError.
        """
        trt = self._trt
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        remedy = f"load the bundle again; if it stays so: {self.rebuild}"
        failed = f"TensorRT makes no context for {self.name}"
        with self.messages.calls(failed, remedy):
            specialize = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
            if specialize is None:
                context = self.raw.create_execution_context(strategy)
            else:
                config = self.raw.create_runtime_config()
                config.set_execution_context_allocation_strategy(strategy)
                if count is not None:
                    # TensorRT-RTX compiles kernels for a shape in the background, and uses slower ones until then: a
                    # graph would keep those for good.
                    config.dynamic_shapes_kernel_specialization_strategy = specialize.EAGER
                if self._kernels is not None:
                    self._kernels.attach(config)
                context = self.raw.create_execution_context(config)
            if context is None:
                raise self.messages.error(failed, remedy)
            # A context begins with the first profile. What another one needs is copied on the stream, and is to be
            # there before the context is given memory and shapes.
            if len(self.profiles) > 1:
                if not context.set_optimization_profile_async(profile, stream.handle):
                    raise self.messages.error(f"{failed} in its profile {profile}", remedy)
                stream.sync()
            if nbytes:
                context.set_device_memory(scratch, nbytes)
        return context

    def keep_kernels(self) -> None:
        """Keep what has been compiled for other processes, if anything was; where that fails they compile again."""
        if self._kernels is not None:
            failed = f"TensorRT does not give the kernels of {self.name}"
            with suppress(CodaError), self.messages.calls(failed, "they are compiled again"):
                self._kernels.keep()

    def scratch_bytes(self, profile: int) -> int:
        """Return the bytes of device memory that a context of a profile works in, for any of its batches."""
        if len(self.profiles) > 1:
            return int(self.raw.get_device_memory_size_for_profile_v2(profile))
        return int(self.raw.device_memory_size_v2)

    def close(self) -> None:
        """Free it; its contexts are gone already."""
        if self._kernels is not None and self.raw is not None:
            self.keep_kernels()
            self._kernels.close()
        self.raw = None
        self._runtime = None


def _read(trt: Any, raw: Any, path: Path, artifact: Artifact, rebuild: str) -> tuple[Tensor, Tensor, tuple[Batch, ...]]:
    names = [raw.get_tensor_name(i) for i in range(raw.num_io_tensors)]
    inputs = [name for name in names if raw.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if raw.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path} has {count(len(inputs), 'input')} and {count(len(outputs), 'output')}; expected one of each. "
            f"{rebuild}"
        )
    source, target = (_tensor(trt, raw, name, path, rebuild) for name in (*inputs, *outputs))
    part = PARTS.get(artifact.part)
    for found, expected in ((source, part.input), (target, part.output)) if part is not None else ():
        if (found.name, found.dtype) != (expected.name, expected.dtype):
            raise ArtifactError(
                f"{path} has {found.name} of {found.dtype}, and the {artifact.part} has {expected.name} of "
                f"{expected.dtype}. {rebuild}"
            )
    profiles = tuple(_profile(raw, source.name, index) for index in range(raw.num_optimization_profiles))
    if artifact.profiles and profiles != artifact.profiles:
        raise ArtifactError(
            f"{path} takes batches {profiles_text(profiles) or 'of no profile'} (min, opt, max), and the manifest says "
            f"{profiles_text(artifact.profiles)}. {rebuild}"
        )
    return source, target, profiles


def _profile(raw: Any, name: str, index: int) -> Batch:
    low, best, high = (int(next(iter(shape))) for shape in raw.get_tensor_profile_shape(name, index))
    return low, best, high


def _tensor(trt: Any, raw: Any, name: str, path: Path, rebuild: str) -> Tensor:
    shape = tuple(int(side) for side in raw.get_tensor_shape(name))
    kind = raw.get_tensor_dtype(name)
    try:
        dtype = np.dtype(trt.nptype(kind))
    except TypeError as error:
        raise ArtifactError(f"{path} has {name} of {kind}, which numpy does not have. {rebuild}") from error
    if not shape or shape[0] != -1 or min(shape[1:], default=1) < 1:
        raise ArtifactError(f"{path} has {name} of shape {list(shape)}; only the batch may vary. {rebuild}")
    return Tensor(name, dtype, shape[1:])
