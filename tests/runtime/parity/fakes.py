"""A backend that runs the tiny tokenizer in NumPy, with faults to order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coda_runtime.backends.base import LoadOptions
from coda_runtime.errors import BackendError, CodaError, MissingDependencyError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from tests.runtime.measurable import NumpyReference

Array = np.ndarray[Any, Any]


@dataclass
class FakeBackend:
    """Formats "onnx" and "fake". `spoil` changes what a batch gives, and may raise; `only` has faults, where named."""

    name: str = "fake"
    formats: tuple[str, ...] = ("fake", "onnx")
    precisions: tuple[str, ...] | None = None
    device: str = "cuda:3"
    spoil: Callable[[Array], Array] = lambda out: out
    lacks: MissingDependencyError | None = None
    rejects: CodaError | None = None
    fails: CodaError | None = None
    only: str | None = None
    """The precision that has the faults."""
    sizes: list[int] = field(default_factory=list)
    options: list[LoadOptions] = field(default_factory=list)
    open: int = 0

    def missing(self) -> MissingDependencyError | None:
        return self.lacks

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        if self.lacks is not None:
            return self.lacks
        self.options.append(options)
        return self.rejects if self.only in (None, artifact.precision) else None

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> FakeSession:
        assert bundle.path(artifact).is_file()
        self.options.append(options)
        if self.fails is not None and self.only in (None, artifact.precision):
            raise self.fails
        self.open += 1
        return FakeSession(self, artifact)


class FakeSession:
    batch = None

    def __init__(self, backend: FakeBackend, artifact: Artifact) -> None:
        reference = NumpyReference()
        runs = {"encoder": reference.latent, "quantizer": reference.encode, "decoder": reference.decode}
        self._run, self._faulty = runs[artifact.part], backend.only in (None, artifact.precision)
        self._backend, self.device = backend, backend.device

    def run(self, batch: Array) -> Array:
        self._backend.sizes.append(len(batch))
        out = self._run(batch)
        return self._backend.spoil(out) if self._faulty else out

    def close(self) -> None:
        self._backend.open -= 1


def from_size(size: int, spoil: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Faults of batches of `size` and more only."""
    return lambda out: spoil(out.copy()) if len(out) >= size else out


def no_memory(out: Array) -> Array:
    raise BackendError("no memory left")
