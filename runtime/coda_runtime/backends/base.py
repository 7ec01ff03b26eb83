"""What an engine library must do for coda: load one file, run one array through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import CodaError, InputError
from ..format.manifest import Artifact, Manifest

Provider = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class LoadOptions:
    """How to load: "auto", "cpu", "cuda" or "cuda:N"; execution providers as the engine library names them; threads.

    `manifest` is that of the bundle the artifact lies in: an engine is compared with the ONNX file it was built from.
    `allow_host_code` lets an engine bring code for the CPU, which a version-compatible TensorRT engine needs.

    Raises InputError for a device of another form and for threads that are not a whole number from 1.
    """

    device: str = "auto"
    providers: Sequence[Provider] | None = None
    threads: int | None = None
    manifest: Manifest | None = None
    allow_host_code: bool = False

    def __post_init__(self) -> None:
        self.cuda_index()
        threads: object = self.threads
        if threads is not None and (
            isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024
        ):
            raise InputError(f"threads is {threads!r}; expected a whole number from 1 to 1024, or None for the default")
        providers: object = self.providers
        if providers is not None and (isinstance(providers, str) or not isinstance(providers, Sequence)):
            raise InputError(f'providers is {providers!r}; expected a list, such as ["CPUExecutionProvider"]')
        if providers is not None and not providers:
            raise InputError("providers is an empty list; name at least one, or pass None to follow the device")

    def cuda_index(self) -> int | None:
        """The GPU's number for "cuda" (0) and "cuda:N", None for "auto" and "cpu"."""
        device: object = self.device
        if device in ("auto", "cpu"):
            return None
        name, _, index = str(device).partition(":")
        if not isinstance(device, str) or name != "cuda" or not (device == "cuda" or index.isdecimal()):
            raise InputError(f'device is {device!r}; expected "auto", "cpu", "cuda" or "cuda:N"')
        return int(index or 0)


class DeviceArray(Protocol):
    """An array in the memory of a GPU. Whoever takes it by `__dlpack__` gets it without a copy, in stream order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy's."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy's."""
        ...

    @property
    def device(self) -> str:
        """Where it lies: "cuda:N"."""
        ...

    def numpy(self) -> npt.NDArray[Any]:
        """A copy in host memory, complete when this returns."""
        ...

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule; work on `stream` (of the consumer) waits until the data is there."""
        ...

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, N) for the GPU N."""
        ...


class Session(Protocol):
    """One loaded file. `run` may be called from many threads at once, and keeps nothing of a call.

    `batch`, (min, opt, max), may be there too: sizes outside it are never passed. Without it any batch goes.
    """

    device: str
    """Where it runs: "cpu", "cuda:N", or a provider's own name."""

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph and return its one output, a new array.

        Raises BackendError, and DeviceMemoryError where a smaller batch might do.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. No `run` is under way, and none follows."""
        ...


class DeviceSession(Session, Protocol):
    """A session on a GPU, whose output may stay there for the next part."""

    def take(self, array: Any) -> DeviceArray:
        """An array of any library that speaks DLPack, on this session's GPU: without a copy, in stream order.

        Raises DeviceError for an array on another device, InputError for one that is not C-contiguous or of a dtype
        that numpy lacks.
        """
        ...

    def run_on_device(self, batch: npt.NDArray[Any] | DeviceArray) -> DeviceArray:
        """As `run`; a `batch` on the same device is read where it lies. Returns before the work is done."""
        ...


class Backend(Protocol):
    """An engine library."""

    name: str
    formats: tuple[str, ...]
    """Formats of artifacts it can load, such as ("onnx",)."""

    def unavailable(self) -> Exception | None:
        """None if the library is installed, or else the MissingDependencyError to raise. Imports nothing heavy."""
        ...

    def load(self, path: Path, artifact: Artifact, options: LoadOptions) -> Session:
        """Load a checked file. Raises ArtifactError, BackendError, DeviceError, InputError, MissingDependencyError."""
        ...


def keeps_on_device(session: Session) -> TypeGuard[DeviceSession]:
    """Whether a session is a DeviceSession. isinstance would look through the protocol's members on every call."""
    return hasattr(session, "run_on_device")


@runtime_checkable
class SelectiveBackend(Backend, Protocol):
    """A backend whose artifacts fit some machines only: backend="auto" asks it first, and may go on to another."""

    def refusal(self, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Why `artifact` may not load here, as the error to raise; None where it may. Loads nothing."""
        ...
