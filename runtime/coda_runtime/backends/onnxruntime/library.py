"""onnxruntime itself: its import, and what its error messages mean."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from ...errors import BackendError, DeviceMemoryError, MissingDependencyError, one_line
from ...machine.devices import onnxruntime_conflict
from ...requirements import needed, onnxruntime, pip_install

SILENT = 4
"""Log fatal errors only: what goes wrong is raised, and stderr belongs to the caller."""

# Messages differ between an arena that cannot grow, one at its limit, CUDA, its libraries, TensorRT and C++.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|out_?of_?memory|failed to allocate memory|smaller than requested bytes"
    r"|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED|bad allocation|bad_alloc",
    re.IGNORECASE,
)

_PLACES = re.compile(r"^.*\.cpp:.*:$", re.MULTILINE)


def missing() -> MissingDependencyError | None:
    """Return None if onnxruntime is installed, by either distribution, or else the error."""
    if importlib.util.find_spec("onnxruntime") is not None:
        return None
    return MissingDependencyError(
        "running ONNX files needs onnxruntime, which is not installed (on an NVIDIA GPU onnxruntime-gpu instead)",
        extra="cpu",
    )


def load_library() -> Any:
    """Import onnxruntime, with its telemetry off. Raises MissingDependencyError, BackendError."""
    # From 1.29 on it reports to its maker from Linux too, unless this is set before its first import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        absent = missing()
        if absent is not None:
            raise absent from error
        raise BackendError(f"onnxruntime is installed but lacks {error.name}; {_reinstall()}") from error
    except ImportError as error:
        # Ctrl-C inside an extension's start comes out as an ImportError.
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise BackendError(f"onnxruntime is installed but does not import ({cause(error)}); {_reinstall()}") from error


def silence(ort: Any) -> None:
    """Keep what no session owns off stderr, for the whole process: there is no narrower switch.

    NVIDIA's providers write warnings there with every session, and errors with every convolution that they then run
    in another way. What really fails is raised.
    """
    ort.set_default_logger_severity(SILENT)


def preload_cuda(ort: Any) -> None:
    """Let onnxruntime find the libraries of CUDA and cuDNN in pip's packages, once.

    Where they lie elsewhere this changes nothing: a provider that does not start says what it lacks. Says nothing.
    """
    preload = getattr(ort, "preload_dlls", None)  # from 1.21
    if preload is not None:
        _preload(preload)


@functools.cache
def _preload(preload: Callable[[], None]) -> None:
    # It prints what it does not find, and warns.
    with warnings.catch_warnings(), contextlib.redirect_stdout(_Quiet(sys.stdout or io.StringIO())):
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):
            preload()


class _Quiet(io.TextIOBase):
    """stdout for other threads, nothing for the one that made it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._silent = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._silent else self._out.write(text)

    def flush(self) -> None:
        self._out.flush()


def conflict_advice(extra: str) -> str | None:
    """Return what to do if onnxruntime and onnxruntime-gpu are both installed; None if they are not."""
    if not onnxruntime_conflict():
        return None
    return (
        "onnxruntime and onnxruntime-gpu are both installed, and then only the CPU works; "
        f"pip uninstall -y onnxruntime onnxruntime-gpu && {pip_install(*needed(extra))}"
    )


def cause(error: BaseException) -> str:
    """Return the first line of an error of onnxruntime that says something, to be quoted in a message."""
    # OpenVINO's begin with the places in its source that they came through.
    told = _PLACES.sub("", str(error)).strip()
    return one_line(told or error, line=0)


def is_out_of_memory(message: str) -> bool:
    """Return whether onnxruntime's message says that memory ran out, on the GPU or the host."""
    return _OUT_OF_MEMORY.search(message) is not None


def run_error(error: Exception, what: str, device: str) -> BackendError:
    """Return the error for a run on `what` (dtype and shape) that failed on `device`."""
    if is_out_of_memory(str(error)):
        return DeviceMemoryError(
            f"{device} has no memory left for {what} ({cause(error)}); pass fewer images at a time, "
            "or close what else uses its memory"
        )
    return BackendError(f"onnxruntime failed on {what} on {device} ({cause(error)}); export the bundle again")


def _reinstall() -> str:
    return conflict_advice("cpu") or f"reinstall it: {pip_install(onnxruntime(), options='--force-reinstall')}"
