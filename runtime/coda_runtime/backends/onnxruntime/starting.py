"""Whether a provider starts: one that is compiled in may lack the libraries of its own that it needs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ...errors import one_line
from .library import load_library, preload_cuda
from .plugins import canonical
from .sums import largest_sum

_ERRORS = 3  # onnxruntime's severity


def why_not(name: str) -> str | None:
    """Start a provider on a graph of one convolution; return None where it runs, or else why it does not.

    For a process of its own: onnxruntime tells what is missing on stderr alone, which this process loses meanwhile, and
    a library that does not fit may end the process.
    """
    ort = load_library()
    preload_cuda(ort)
    ort.set_default_logger_severity(_ERRORS)
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS
    with _stderr() as said:
        try:
            session = ort.InferenceSession(largest_sum(), settings, providers=[name])
        except Exception as error:  # onnxruntime's errors have no common base
            return one_line(error)
        sys.stderr.flush()
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    if canonical(name) in map(canonical, session.get_providers()):
        return None
    # The first error has the reason; what follows is what became of it.
    return next((one_line(line, limit=400) for line in lines if "rror" in line), "it does not say why")


@contextmanager
def _stderr() -> Iterator[BinaryIO]:
    """Let all that is written to stderr, by C++ too, go to a file."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)
