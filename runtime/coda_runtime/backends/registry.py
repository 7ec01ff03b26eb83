"""Which backends there are. A backend's module is imported when a bundle asks for it, never on a guess."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module

from ..errors import BackendError
from ..format.parts import PARTS, QUANTIZER
from .base import Backend


@dataclass(frozen=True)
class _Entry:
    factory: Callable[[], Backend]
    formats: tuple[str, ...] | None = None  # known before its module is imported; None: it has to be asked
    parts: tuple[str, ...] = tuple(PARTS)
    automatic: bool = True


def _in(module: str, name: str) -> Callable[[], Backend]:
    """Return what imports a backend's module, one of this package, and makes the backend."""

    def make() -> Backend:
        backend: Backend = getattr(import_module(module, __package__), name)()
        return backend

    return make


# In order of preference, fastest first: what backend="auto" goes by where `coda tune` has recorded nothing. The
# quantizer's kernels, much faster than onnxruntime (docs/gpu.md), are a program of whoever made the bundle: only who
# asks for them by name gets them.
_ENTRIES: dict[str, _Entry] = {
    "tensorrt": _Entry(_in(".tensorrt.backend", "TensorRTBackend"), ("tensorrt",)),
    "tensorrt-rtx": _Entry(_in(".tensorrt.backend", "TensorRTRTXBackend"), ("tensorrt-rtx",)),
    "cuda": _Entry(_in(".ptx.backend", "PtxBackend"), ("ptx",), parts=(QUANTIZER.name,), automatic=False),
    "onnxruntime": _Entry(_in(".onnxruntime.backend", "OnnxRuntimeBackend"), ("onnx",)),
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


def automatic(formats: Collection[str]) -> tuple[str, ...]:
    """Return the names of the backends that backend="auto" chooses from for these formats, most preferred first."""
    return tuple(
        name
        for name, entry in _ENTRIES.items()
        if entry.automatic and (entry.formats is None or not set(entry.formats).isdisjoint(formats))
    )


def is_automatic(name: str) -> bool:
    """Return whether a backend is registered, and one that backend="auto" chooses from."""
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
