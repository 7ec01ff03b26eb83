"""What an engine library must do for coda: load one file, run one array through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from ..errors import InputError
from ..manifest import Artifact

Provider = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class LoadOptions:
    """How to load: "auto", "cpu", "cuda" or "cuda:N"; execution providers as the engine library names them; threads.

    Raises InputError for a device of another form and for threads that are not a whole number from 1.
    """

    device: str = "auto"
    providers: Sequence[Provider] | None = None
    threads: int | None = None

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


class Session(Protocol):
    """One loaded file. `run` may be called from many threads at once, and keeps nothing of a call."""

    device: str
    """Where it runs: "cpu" or "cuda:N"."""

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph and return its one output, a new array. Raises BackendError."""
        ...

    def close(self) -> None:
        """Free what the engine holds. No `run` is under way, and none follows."""
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
