"""Whether a provider starts: one that is compiled in may lack the libraries of its own that it needs."""

from __future__ import annotations

import os
import re
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
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NAMED = re.compile(r"with error: (.+)")


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
        text = said.read().decode(errors="replace")
    return None if canonical(name) in map(canonical, session.get_providers()) else reason(text)


def reason(log: str) -> str:
    """Return why a provider did not start, by what onnxruntime wrote: the library that is missing, if it names one."""
    lines = [line for line in _COLOUR.sub("", log).splitlines() if "rror" in line]
    # The first error has the reason; what follows is what became of it.
    named = next((found for line in lines if (found := _NAMED.search(line)) is not None), None)
    return one_line(named[1] if named is not None else lines[0] if lines else "it does not say why")


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
