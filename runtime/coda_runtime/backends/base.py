"""What a backend does for coda, load a file and run arrays through it, and the options that a bundle is loaded with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypedDict, TypeGuard, cast

import numpy as np
import numpy.typing as npt

from ..errors import CodaError, InputError, MissingDependencyError
from ..format.bundle import Bundle
from ..format.checksums import Verify
from ..format.color import COLORS, STORED, check_color
from ..format.manifest import Artifact
from ..format.precision import PRECISIONS
from ..format.profiles import Batch

Provider = str | tuple[str, Mapping[str, Any]]

MAX_THREADS = 1024


@dataclass(frozen=True)
class LoadOptions:
    """How a bundle is loaded: what `coda_runtime.load`, every command that loads a bundle, bulk and serving take.

    This is the one list of these arguments. A field whose metadata has a `help` is an option of the commands:
    `option` is its name where that is not the field's, `range` bounds a number, `choices` are the only values,
    `repeatable` makes a list of it.

    Raises InputError for a device of another form, for threads that are not a whole number from 1, for providers that
    are no list or an empty one, and for another color.
    """

    device: str = field(default="auto", metadata={"help": "Where to run: auto, cpu, cuda or cuda:N."})
    """"cpu", "cuda", "cuda:N", or "auto": a GPU if the engine library and the driver have one."""
    backend: str | Backend = field(
        default="auto", metadata={"help": "What runs the graphs: auto, or an engine library's name."}
    )
    """A backend's name, a `Backend` of your own, or "auto": what `coda tune` found the fastest here, or else the first
    in a fixed order, of those that may load what the bundle has and was measured; `artifacts` of the tokenizer says
    what that was, and what it skipped and why. "cuda" is for the quantizer alone, the other parts go by "auto"."""
    precision: str = field(
        default="auto", metadata={"help": f"Precision: auto (the bundle's), {', '.join(PRECISIONS)}."}
    )
    """A precision's name, or "auto": the manifest's default on every machine, so that none takes another one, and other
    ids, by itself. The quantizer is always float32."""
    providers: Sequence[Provider] | None = field(
        default=None,
        metadata={"help": "Execution provider of onnxruntime; repeatable.", "option": "--provider", "repeatable": True},
    )
    """onnxruntime's execution providers, passed through, instead of what `device` stands for."""
    threads: int | None = field(default=None, metadata={"help": "CPU threads for one run.", "range": (1, MAX_THREADS)})
    """CPU threads for one run, from 1; None follows what `coda tune` recorded, or else leaves it to the engine library,
    but where affinity, a cpuset or a quota leaves this process fewer cores than the machine has."""
    verify: Verify = "cached"
    """"cached" hashes files that changed since they were last checked, "always" hashes them all."""
    allow_host_code: bool = field(
        default=False, metadata={"help": "Let version-compatible engines run code of theirs on the CPU."}
    )
    """Let engines bring code that runs on the CPU, as version-compatible TensorRT engines do. Allow it only for a
    bundle whose maker you trust. Every engine is code for the GPU; ONNX files are not code."""
    color: str = field(
        default=STORED,
        metadata={
            "help": "Colours of image files: stored ignores ICC profiles, srgb converts by them.",
            "choices": COLORS,
        },
    )
    """What the values in image files mean: "stored" ignores ICC profiles, as the published tokenizers' own code does,
    and "srgb" converts an image by its profile. Ids are others where a profile is not sRGB's."""
    reproducible: bool = field(
        default=False, metadata={"help": "The same ids on every x86-64 processor with AVX2; slower."}
    )
    """Compute in one order on every x86-64 processor with AVX2 and FMA, so that ids and images are the same to the last
    bit wherever the version of onnxruntime is. It stands for device="cpu" and backend="onnxruntime", and is for fp32.
    Each image is computed by one thread, `threads` of them side by side. docs/portability.md says what was measured."""
    nvtx: bool = field(default=False, metadata={"help": "Mark calls, batches and parts for a profiler (NVTX)."})
    """Mark each call, each of its batches and each part as an NVTX range, which Nsight Systems shows. Needs the package
    nvtx (extra `nvtx`), and no GPU."""
    ignore_tuning: bool = field(default=False, metadata={"help": "Follow no record of `coda tune`."})
    """Let "auto" and `threads` follow a fixed order and not what `coda tune` recorded on this machine, as
    `reproducible` does too: another backend may give other ids at near ties."""

    def __post_init__(self) -> None:
        self.cuda_index()
        check_color(self.color)
        if self.reproducible:
            self._make_reproducible()
        threads: object = self.threads
        if threads is not None and (
            isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS
        ):
            raise InputError(
                f"threads is {threads!r}; expected a whole number from 1 to {MAX_THREADS}, or None for the default"
            )
        providers: object = self.providers
        if providers is not None and (isinstance(providers, str) or not isinstance(providers, Sequence)):
            raise InputError(f'providers is {providers!r}; expected a list, such as ["CPUExecutionProvider"]')
        if providers is not None and not providers:
            raise InputError("providers is an empty list; name at least one, or pass None to follow the device")

    def _make_reproducible(self) -> None:
        asked = {"device": self.device, "backend": self.backend, "providers": self.providers}
        for name, only in {"device": "cpu", "backend": "onnxruntime", "providers": None}.items():
            if asked[name] not in ("auto", None, only):
                raise InputError(
                    f"reproducible ids are those of onnxruntime's own CPU provider, and {name} is {asked[name]!r}; "
                    f"leave out {name}, or leave out reproducible"
                )
            object.__setattr__(self, name, only)

    def arguments(self) -> AllOptions:
        """Return the fields by name: what a function takes that has each of them as an argument."""
        return cast(AllOptions, {field.name: getattr(self, field.name) for field in fields(self)})

    def cuda_index(self) -> int | None:
        """Return the GPU's number for "cuda" (0) and "cuda:N", None for "auto" and "cpu"."""
        device: object = self.device
        if device in ("auto", "cpu"):
            return None
        name, _, index = str(device).partition(":")
        if not isinstance(device, str) or name != "cuda" or not (device == "cuda" or index.isdecimal()):
            raise InputError(f'device is {device!r}; expected "auto", "cpu", "cuda" or "cuda:N"')
        return int(index or 0)


class KeywordOptions(TypedDict, total=False):
    """Those fields of LoadOptions, for type checkers, that functions take by name only."""

    verify: Verify
    allow_host_code: bool
    color: str
    reproducible: bool
    nvtx: bool
    ignore_tuning: bool


class AllOptions(KeywordOptions, total=False):
    """All fields of LoadOptions, for functions that take each of them by name."""

    device: str
    backend: str | Backend
    precision: str
    providers: Sequence[Provider] | None
    threads: int | None


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
        """Return a copy in host memory, complete when this returns."""
        ...

    def wait(self) -> None:
        """Let the host wait until the data is there."""
        ...

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule; work on `stream` (of the consumer) waits until the data is there."""
        ...

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, N) for the GPU N."""
        ...


class Session(Protocol):
    """One loaded file. `run` may be called from many threads at once, and keeps nothing of a call."""

    device: str
    """Where it runs: "cpu", "cuda:N", or a provider's own name."""

    @property
    def batch(self) -> Batch | None:
        """The batch profile: sizes outside it are never passed. None: any batch goes.

        Of a session with several it spans them all; see `ProfiledSession`.
        """
        ...

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph and return its one output, a new array.

        Raises BackendError, and DeviceMemoryError where a smaller batch might do.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. No `run` is under way, and none follows."""
        ...


class ProfiledSession(Session, Protocol):
    """A session with several batch profiles: it takes a batch that one of them holds, and runs it there."""

    @property
    def profiles(self) -> tuple[Batch, ...]:
        """All of them; none says that any batch goes."""
        ...


class DeviceSession(Session, Protocol):
    """A session on a GPU, whose output may stay there for the next part."""

    def put(self, batch: npt.NDArray[Any]) -> DeviceArray:
        """Copy an array to this session's GPU, into memory of its own; `batch` may be changed at once.

        May return before the copy is done. Raises DeviceMemoryError, BackendError.
        """
        ...

    def take(self, array: Any) -> DeviceArray:
        """Take an array of any library that speaks DLPack, on this session's GPU: without a copy, in stream order.

        Raises DeviceError for an array on another device, InputError for one that is not C-contiguous or of a dtype
        that numpy lacks.
        """
        ...

    def run_on_device(self, batch: npt.NDArray[Any] | DeviceArray) -> DeviceArray:
        """Do as `run` does; a `batch` on the same device is read where it is. Returns before the work is done."""
        ...


class Backend(Protocol):
    """What loads artifacts: an engine library, and how it is asked."""

    name: str
    formats: tuple[str, ...]
    """Formats of artifacts it loads, such as ("onnx",)."""
    precisions: tuple[str, ...] | None
    """Precisions it runs; None: all that its formats hold, each as far as `check` says."""

    def missing(self) -> MissingDependencyError | None:
        """Return the error that names what is not installed, None where all is. Imports nothing heavy."""
        ...

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Return why an artifact of the bundle may not run here, None where it may. Loads nothing.

        What is `missing` comes first. The bundle is compared with: an engine belongs to the ONNX file it was built
        from.
        """
        ...

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        """Load an artifact, of the bytes that `bundle.read` gives: a file may be exchanged after it was verified.

        Raises what `check` returns, ArtifactError, BackendError, DeviceError, DeviceMemoryError, InputError.
        """
        ...


def profiles_of(session: Session) -> tuple[Batch, ...]:
    """Return the batch profiles of a session; empty where any batch goes."""
    if _has_profiles(session):
        return session.profiles
    return () if session.batch is None else (session.batch,)


def _has_profiles(session: Session) -> TypeGuard[ProfiledSession]:
    return hasattr(session, "profiles")


def keeps_on_device(session: Session) -> TypeGuard[DeviceSession]:
    """Return whether a session is a DeviceSession. isinstance would look through the protocol on every call."""
    return hasattr(session, "run_on_device")
