"""A stand-in for a GPU that counts: arrays that have to be fetched, and sessions that run ONNX on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coda_runtime import DeviceError, DeviceMemoryError
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.profiles import Batch, choose_profile, span


class Remote:
    """An array that has to be fetched; implements DeviceArray."""

    fetched = waited = 0

    def __init__(self, content: npt.NDArray[Any], device: str = "cuda:0") -> None:
        self.content, self.device = content, device

    @property
    def shape(self) -> tuple[int, ...]:
        return self.content.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.content.dtype

    def numpy(self) -> npt.NDArray[Any]:
        Remote.fetched += 1
        return self.content

    def wait(self) -> None:
        Remote.waited += 1

    def __dlpack__(self, **_: Any) -> Any:
        raise NotImplementedError

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class RemoteSession:
    """Runs ONNX on the CPU, and says it is a GPU with a batch profile and memory for so many images."""

    def __init__(self, inner: Any, device: str, batch: tuple[int, int, int], memory: int) -> None:
        self.inner, self.device, self.batch, self.memory = inner, device, batch, memory
        self.sizes: list[int] = []

    def _run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        assert self.batch[0] <= len(batch) <= self.batch[2]
        if len(batch) > self.memory:
            raise DeviceMemoryError("the stand-in has no memory")
        self.sizes.append(len(batch))
        return np.asarray(self.inner.run(batch))

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return self._run(batch)

    def run_on_device(self, batch: Any) -> Remote:
        return Remote(self._run(batch.content if isinstance(batch, Remote) else batch), self.device)

    def put(self, batch: npt.NDArray[Any]) -> Remote:
        return Remote(batch.copy(), self.device)

    def take(self, array: Any) -> Remote:
        if array.device != self.device:
            raise DeviceError(f"it lies on {array.device}")
        return Remote(array.content, self.device)

    def close(self) -> None:
        self.inner.close()


class RemoteProfiles(RemoteSession):
    """A session with several profiles, which notes the one that each batch fits in."""

    def __init__(self, inner: Any, device: str, profiles: tuple[Batch, ...], memory: int) -> None:
        super().__init__(inner, device, span(profiles), memory)
        self.profiles = profiles

    def _run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        assert choose_profile(self.profiles, len(batch)) is not None
        return super()._run(batch)


class RemoteBackend:
    name = "remote"
    formats: tuple[str, ...] = ("onnx",)
    precisions = None

    def __init__(self, batch: tuple[int, int, int] = (1, 2, 4), memory: int = 99, **devices: str) -> None:
        self.batch, self.memory, self.devices = batch, memory, devices
        self.profiles: dict[str, tuple[Batch, ...]] = {}
        self.sessions: dict[str, RemoteSession] = {}

    def missing(self) -> None:
        return None

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> None:
        return None

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> RemoteSession:
        inner = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cpu"))
        device = self.devices.get(artifact.part, "cuda:0")
        several = self.profiles.get(artifact.part)
        if several is None:
            session = RemoteSession(inner, device, self.batch, self.memory)
        else:
            session = RemoteProfiles(inner, device, several, self.memory)
        self.sessions[artifact.part] = session
        return session
