"""The package openvino itself: its import without telemetry, its one Core of a process, what its errors mean."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ...errors import BackendError, DeviceMemoryError, MissingDependencyError, one_line
from ...requirements import pip_install

NAME = "openvino"
"""Of the backend, the package, its module, and the extra that brings it."""

# The converter of other frameworks' models, which a bundle does not need: its import sends an event to Intel.
_CONVERTER = "openvino.tools.ovc"
_PLACES = re.compile(r"^Exception from \S+:$|Check '.*' failed at \S+:\d+:?", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|could not allocate|bad[_ ]alloc", re.IGNORECASE)

_lock = threading.Lock()
_cores: dict[int, Any] = {}
"""The one Core, by the process that made it: its threads stay behind in a fork."""


def missing() -> MissingDependencyError | None:
    """Return None if the package openvino is installed, or else the error."""
    found = importlib.util.find_spec(NAME)
    if found is not None and found.origin is not None:  # a folder without a package is what an old openvino-dev leaves
        return None
    return MissingDependencyError("the backend openvino needs the package openvino, which is not installed", extra=NAME)


def load_library() -> Any:
    """Import openvino, without its telemetry. Raises MissingDependencyError, BackendError."""
    with _lock:
        try:
            with _without_converter():
                return importlib.import_module(NAME)
        except ImportError as error:
            absent = missing()
            if absent is not None:
                raise absent from error
            raise BackendError(
                f"openvino is installed but does not import ({cause(error)}); reinstall it: "
                f"{pip_install(NAME, options='--force-reinstall')}"
            ) from error


@contextlib.contextmanager
def _without_converter() -> Iterator[None]:
    """Let `import openvino` pass over its converter, as where that is not installed.

    Whoever wants it in the same process imports `openvino.tools.ovc` itself.
    """
    if NAME in sys.modules or _CONVERTER in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[_CONVERTER] = None  # Python's way to say that a module is not there
    try:
        yield
    finally:
        if modules.get(_CONVERTER, ...) is None:
            del modules[_CONVERTER]


def core() -> Any:
    """Return the Core of this process. Raises MissingDependencyError, BackendError after a fork too."""
    openvino = load_library()
    problem = left_behind()
    if problem is not None:
        raise problem
    with _lock:
        if os.getpid() not in _cores:
            _cores[os.getpid()] = openvino.Core()
        return _cores[os.getpid()]


def left_behind() -> BackendError | None:
    """Return the error for a process whose parent had begun with OpenVINO when it was forked, None for any other.

    Its threads stay in the parent, and what is loaded in the child waits for them for ever.
    """
    if not _cores or os.getpid() in _cores:
        return None
    return BackendError(
        "OpenVINO had begun its threads before this process was forked, and they stay behind; start processes by "
        'spawn, load no bundle before the fork, or pass backend="onnxruntime"'
    )


def capabilities() -> frozenset[str]:
    """Return what OpenVINO finds in this processor, such as {"FP32", "BF16", "INT8"}. Raises as `core` does."""
    return frozenset(map(str, core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")))


def cause(error: BaseException) -> str:
    """Return what an error of OpenVINO says, in one line, without the places in its source that it came through."""
    told = _PLACES.sub("", str(error)).strip()
    return one_line(told or error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of OpenVINO says that memory ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def run_error(error: Exception, what: str) -> BackendError:
    """Return the error for a run on `what` (dtype and shape) that failed."""
    if is_out_of_memory(error):
        return DeviceMemoryError(f"there is no memory left for {what} ({cause(error)}); pass fewer images at a time")
    return BackendError(f"openvino failed on {what} ({cause(error)}); export the bundle again")
