"""Which backends there are. A backend's module is imported when a bundle asks for it, never on a guess."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import BackendError
from .base import Backend


def _onnxruntime() -> Backend:
    from .onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend()


# In order of preference, fastest first: what backend="auto" goes by.
_FACTORIES: dict[str, Callable[[], Backend]] = {"onnxruntime": _onnxruntime}


def register(name: str, factory: Callable[[], Backend]) -> None:
    """Add a backend, least preferred. Raises BackendError if the name is taken."""
    if name in _FACTORIES:
        raise BackendError(f"a backend named {name!r} is there already; choose another name, or unregister it first")
    _FACTORIES[name] = factory


def unregister(name: str) -> None:
    """Take a backend out again. Raises BackendError if there is none of that name."""
    if _FACTORIES.pop(name, None) is None:
        raise BackendError(f"there is no backend named {name!r}; registered are {', '.join(_FACTORIES)}")


def names() -> tuple[str, ...]:
    """Names of the registered backends, most preferred first."""
    return tuple(_FACTORIES)


def get_backend(name: str) -> Backend:
    """A backend by name. Raises BackendError if there is none of that name."""
    factory = _FACTORIES.get(name)
    if factory is None:
        known = ", ".join(f'"{known}"' for known in ("auto", *_FACTORIES))
        raise BackendError(f"backend is {name!r}; expected one of {known}")
    return factory()
