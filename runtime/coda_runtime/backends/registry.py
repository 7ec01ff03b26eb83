"""Which backends there are. A backend's module is imported when a bundle asks for it, never on a guess."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module

from ..errors import BackendError
from ..format.manifest import Artifact
from ..format.parts import DECODER, ENCODER, GRAPHS, PARTS, QUANTIZER
from ..format.precision import PRECISIONS
from .base import Backend


@dataclass(frozen=True)
class _Entry:
    factory: Callable[[], Backend]
    formats: tuple[str, ...] | None = None  # known before its module is imported; None: it has to be asked
    parts: tuple[str, ...] = tuple(PARTS)
    automatic: bool = True
    unasked: tuple[str, ...] | None = None  # what "auto" may choose it for by itself, precisions; None: all it runs


def _in(module: str, name: str) -> Callable[[], Backend]:
    """Return what imports a backend's module, one of this package, and makes the backend."""

    def make() -> Backend:
        backend: Backend = getattr(import_module(module, __package__), name)()
        return backend

    return make


# In order of preference, fastest first: what backend="auto" goes by where `coda tune` has recorded nothing. The
# quantizer's kernels, much faster than onnxruntime (docs/gpu.md), are a program of whoever made the bundle: only who
# asks for them by name gets them. OpenVINO decides near ties otherwise than onnxruntime, and installing it must not
# change ids: by itself "auto" runs on it what onnxruntime's own CPU provider cannot run, and a record of `coda tune`
# all else. It lacks the loop that quantizers search in.
_BEYOND_ONNXRUNTIME = tuple(name for name, precision in PRECISIONS.items() if not precision.onnxruntime_cpu)
_ENTRIES: dict[str, _Entry] = {
    "tensorrt": _Entry(_in(".tensorrt.backend", "TensorRTBackend"), ("tensorrt",)),
    "tensorrt-rtx": _Entry(_in(".tensorrt.backend", "TensorRTRTXBackend"), ("tensorrt-rtx",)),
    "cuda": _Entry(_in(".ptx.backend", "PtxBackend"), ("ptx",), parts=(QUANTIZER.name,), automatic=False),
    "onnxruntime": _Entry(_in(".onnxruntime.backend", "OnnxRuntimeBackend"), ("onnx",), parts=tuple(GRAPHS)),
    "openvino": _Entry(
        _in(".openvino.backend", "OpenVinoBackend"),
        ("onnx",),
        parts=(ENCODER.name, DECODER.name),
        unasked=_BEYOND_ONNXRUNTIME,
    ),
}


def register(name: str, factory: Callable[[], Backend], *, automatic: bool = True) -> None:
    """Add a backend, least preferred; without `automatic` it runs only where it is asked for by name.

    Raises BackendError if the name is taken.
    """
    if name in _ENTRIES:
        raise BackendError(f"a backend named {name!r} already exists; choose another name, or unregister it first")
    _ENTRIES[name] = _Entry(factory, automatic=automatic)


def unregister(name: str) -> None:
    """Take a backend out again. Raises BackendError if there is none of that name."""
    if _ENTRIES.pop(name, None) is None:
        raise BackendError(f"there is no backend named {name!r}; registered are {', '.join(_ENTRIES)}")


def names() -> tuple[str, ...]:
    """Return the names of the registered backends, most preferred first."""
    return tuple(_ENTRIES)


def automatic(artifacts: Collection[Artifact]) -> tuple[str, ...]:
    """Return the names of the backends that backend="auto" chooses from to load one of these, most preferred first."""
    return tuple(
        name
        for name, entry in _ENTRIES.items()
        if any(
            _loads(entry, artifact) and (entry.unasked is None or artifact.precision in entry.unasked)
            for artifact in artifacts
        )
    )


def recordable(artifacts: Collection[Artifact]) -> tuple[str, ...]:
    """Return the names of the backends that "auto" takes to load one of these where `coda tune` has recorded them."""
    return tuple(name for name, entry in _ENTRIES.items() if any(_loads(entry, artifact) for artifact in artifacts))


def _loads(entry: _Entry, artifact: Artifact) -> bool:
    of_its_format = entry.formats is None or artifact.format in entry.formats
    return entry.automatic and artifact.part in entry.parts and of_its_format


def is_automatic(name: str) -> bool:
    """Return whether a backend is registered, and one that backend="auto" chooses from, be it by a record alone."""
    entry = _ENTRIES.get(name)
    return entry is not None and entry.automatic


def runs(name: str, part: str) -> bool:
    """Return whether a backend is for a part at all; others go by backend="auto". True for unknown names."""
    entry = _ENTRIES.get(name)
    return entry is None or part in entry.parts


def name_for(format: str) -> str:
    """Return the most preferred backend that is known to load a format. Raises BackendError if there is none."""
    for name, entry in _ENTRIES.items():
        if entry.formats is not None and format in entry.formats:
            return name
    raise BackendError(f"no backend here loads the format {format!r}; update coda-runtime")


def get_backend(name: str) -> Backend:
    """Return a backend by name. Raises BackendError if there is none of that name."""
    entry = _ENTRIES.get(name)
    if entry is None:
        known = ", ".join(f'"{known}"' for known in ("auto", *_ENTRIES))
        raise BackendError(f"backend is {name!r}; expected one of {known}")
    return entry.factory()
