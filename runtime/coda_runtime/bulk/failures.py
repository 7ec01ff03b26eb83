"""Errors that cross from Ray's processes to the driver as text, since not every exception can be pickled."""

from __future__ import annotations

from .. import errors
from ..errors import BackendError, CodaError, one_line


def pack(error: CodaError) -> str:
    """Return the error's class and message in one line."""
    return one_line(error, named=True, limit=None)


def unpack(text: str) -> CodaError:
    """Return the error again, as its own class if that takes a message alone."""
    name, _, message = text.partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, CodaError):
        error = kind.__new__(kind)
        Exception.__init__(error, message)
        return error
    return BackendError(message)
