"""A second backend for ONNX files: ONNX Runtime's, under another name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coda_runtime.backends import registry
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

NAME = "second"


class Second(OnnxRuntimeBackend):
    name = NAME


@contextmanager
def registered(*, automatic: bool = True) -> Iterator[None]:
    """It is there inside the block, least preferred."""
    registry.register(NAME, Second, automatic=automatic)
    try:
        yield
    finally:
        registry.unregister(NAME)
