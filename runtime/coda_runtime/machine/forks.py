"""Engines do not survive a fork: their threads stay in the parent, and a child that frees an engine waits for them."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Protocol
from weakref import WeakSet


class HoldsSessions(Protocol):
    """An object whose engines may never be freed in a forked child."""

    def sessions(self) -> Any:
        """Return what holds the engines."""


_holders: WeakSet[Any] = WeakSet()


def guard(holder: HoldsSessions) -> None:
    """Keep the engines of `holder` from being freed in forked children from now on, when those exit too."""
    _holders.add(holder)


def _keep_sessions() -> None:
    # An own reference more, which nobody gives back: what a module holds is freed when the interpreter ends.
    for holder in _holders:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder.sessions()))


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_keep_sessions)
