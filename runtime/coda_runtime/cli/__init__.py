"""The `coda` command. Needs the extra `cli`; no PyTorch."""

from __future__ import annotations

import importlib.util
import io
import signal
import sys
import warnings
from types import FrameType
from typing import TextIO

from ..requirements import RUNTIME_EXTRAS, how_to_install

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 success, 2 wrong usage, 1 a failure explained on stderr, 130 interrupted."""
    if missing := [name for name in RUNTIME_EXTRAS["cli"] if importlib.util.find_spec(name) is None]:
        names = " and ".join(missing)
        sys.stderr.write(f"error: the coda command needs {names}; {how_to_install(*missing)}\n")
        sys.exit(1)
    _print_any_name()
    warnings.showwarning = _show_warning
    # An exception lets every `finally` take away what is half-written; the default would just end the process.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from .app import cli

        cli(prog_name="coda")
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)


def _print_any_name() -> None:
    """Let a name that the terminal's encoding lacks, as cp1252 does most, come out with escapes and not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of ours or of a library as `base.warn` does: a line of source means nothing to who types."""
    from .base import warn

    warn(str(message))


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
