"""The GPU that an engine is built for or compared with."""

from ..devices import Gpu, find_gpu

__all__ = ["Gpu", "find_gpu"]
