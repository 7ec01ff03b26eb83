"""A second backend for ONNX files: ONNX Runtime's, under another name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from coda_runtime.backends import registry
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

NAME = "second"


class Second(OnnxRuntimeBackend):
    name = NAME


@contextmanager
def registered(*, automatic: bool = True) -> Iterator[None]:
    """It and ONNX Runtime's are there inside the block and no others, whatever is installed; least preferred."""
    entries = {name: entry for name, entry in registry._ENTRIES.items() if name == "onnxruntime"}
    with mock.patch.object(registry, "_ENTRIES", entries):
        registry.register(NAME, Second, automatic=automatic)
        yield
