"""Engine libraries behind one small interface, imported only when a bundle needs one.

To swap one in a test, or to bring your own: `register("mine", factory)` and `load(..., backend="mine")`.
"""

from .base import Backend, LoadOptions, Session
from .registry import get_backend, names, register, unregister

__all__ = ["Backend", "LoadOptions", "Session", "get_backend", "names", "register", "unregister"]
