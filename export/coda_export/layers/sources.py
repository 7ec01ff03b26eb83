"""Where the outputs of layers come from: a graph on some backend, or whatever else can tell them by path."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from coda_export.layers.graph import Graph
from coda_export.layers.names import Layer, layers_of, with_inputs
from coda_export.layers.surgery import exposing, islands
from coda_runtime.backends.base import LoadOptions
from coda_runtime.format.bundle import Bundle, describe_file
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.spec import Spec
from coda_runtime.select import named_backend

Values = Mapping[str, NDArray[np.float32]]
"""By path: a layer's output for one image, flat."""


class Activations(Protocol):
    """What has layers."""

    @property
    def paths(self) -> Container[str]:
        """The layers it can tell."""
        ...

    def values(self, paths: Sequence[str]) -> Values:
        """Return these layers' outputs for the image at hand."""
        ...


LayersOf = Callable[[str, NDArray[Any]], Activations]
"""Makes them of a part's name and of what the part is given, for one image."""


class Runner:
    """Runs graphs with one input and one output on a backend, as an artifact of a bundle would be."""

    def __init__(self, spec: Spec, part: str, precision: str, options: LoadOptions) -> None:
        """``options`` name the backend: "auto" is for whoever chooses among several."""
        self._spec, self._part, self._precision, self._options = spec, part, precision, options
        self.backend = named_backend(options)

    def run(self, model: onnx.ModelProto, given: NDArray[Any]) -> NDArray[np.float32]:
        """Return the graph's output, a row of float32. Raises what the backend's load and run do."""
        with tempfile.TemporaryDirectory(prefix="coda-layers-") as folder:
            root, file = Path(folder), f"{self._part}.{self._precision}.onnx"
            onnx.save(model, root / file)
            artifact = Artifact(self._part, "onnx", self._precision, file, *describe_file(root, file))
            manifest = Manifest(
                spec=self._spec, provenance={}, default_precision=self._precision, artifacts=(artifact,)
            )
            bundle = Bundle(root, manifest, b"")
            bundle.verify("always", apart_from=[artifact])  # the user's cache shall not remember these files
            session = self.backend.load(bundle, artifact, self._options)
            try:
                out: NDArray[np.float32] = session.run(given)
                return out.reshape(-1)
            finally:
                session.close()


class GraphActivations:
    """A part's graph, what it is given, and where it runs."""

    def __init__(self, model: onnx.ModelProto, runner: Runner, given: NDArray[Any]) -> None:
        """``given`` is one image, or one image's ids, with the batch's dimension."""
        self.graph, self._runner, self._given = Graph(model), runner, given
        self.layers = {layer.path: layer for layer in layers_of(model)}

    @property
    def backend(self) -> str:
        """The name of the backend that runs it."""
        return self._runner.backend.name

    @property
    def paths(self) -> Collection[str]:
        """The layers that the graph has."""
        return self.layers.keys()

    def values(self, paths: Sequence[str]) -> Values:
        """Return these layers' outputs."""
        layers = [self.layers[path] for path in paths]
        return _cut(layers, self._runner.run(exposing(self.graph, layers), self._given))

    def among(self, paths: Collection[str]) -> list[Layer]:
        """Return those layers in the graph's order, each with those of them that it reads."""
        return with_inputs(self.graph, [layer for layer in self.layers.values() if layer.path in paths])

    def alone(self, layers: Sequence[Layer], given: Values, cut: Sequence[Layer]) -> Values:
        """Return the outputs of ``layers``, each computed from ``given``, other layers' outputs, by this graph.

        ``cut`` are all layers that may be given.
        """
        needed = {path for layer in layers for path in layer.inputs}
        entering = [layer for layer in cut if layer.path in needed]
        row = np.concatenate([given[layer.path] for layer in entering])[None]
        return _cut(layers, self._runner.run(islands(self.graph, layers, entering, cut), row))


def _cut(layers: Sequence[Layer], row: NDArray[np.float32]) -> Values:
    ends = np.cumsum([int(np.prod(layer.shape)) for layer in layers])
    return dict(zip([layer.path for layer in layers], np.split(row, ends[:-1]), strict=True))
