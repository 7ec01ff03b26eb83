"""Ranges on a profiler's timeline, by NVIDIA's package nvtx: a call, its batches, and the parts that these run.

A range covers what the host does. On a GPU that may be no more than starting the work; Nsight Systems shows beside it
the kernels and copies that were started inside.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from .errors import require

DOMAIN = "coda"
"""The domain of the ranges, by which a profiler tells them from those of other libraries."""


class Ranges(Protocol):
    """Makes ranges."""

    def __call__(self, name: str, images: int | None = None, /) -> AbstractContextManager[object]:
        """Return a context that is a range of this name; the number of images is its payload."""
        ...


_NOTHING = nullcontext()


def no_ranges(_name: str, _images: int | None = None, /) -> AbstractContextManager[object]:
    """Return a context that does nothing, always the same: what is not watched pays for none."""
    return _NOTHING


class NvtxRanges:
    """NVTX ranges; they do nothing where no tool is attached. Raises MissingDependencyError without nvtx."""

    def __init__(self) -> None:
        require("marking NVTX ranges", "nvtx")
        nvtx: Any = importlib.import_module("nvtx")
        self._domain = nvtx.get_domain(DOMAIN)

    def __call__(self, name: str, images: int | None = None, /) -> AbstractContextManager[object]:
        """Return a context that is a range of this name; the number of images is its payload."""
        return _Range(self._domain, self._domain.get_event_attributes(message=name, payload=images))


class _Range:
    """Pushed and popped by one thread: the ranges of threads lie beside each other."""

    def __init__(self, domain: Any, attributes: Any) -> None:
        self._domain, self._attributes = domain, attributes

    def __enter__(self) -> None:
        self._domain.push_range(self._attributes)

    def __exit__(self, *_: object) -> None:
        self._domain.pop_range()
