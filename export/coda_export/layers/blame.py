"""The layer that an export fails by, told beside the threshold that it missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from coda_export.layers.bundle import first_image
from coda_export.layers.compare import Comparison, LayerRow, layer_rows
from coda_export.layers.sources import GraphActivations, LayersOf, Runner
from coda_runtime.backends.base import LoadOptions
from coda_runtime.errors import CodaError, ParityError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parts import DECODER, ENCODER, PARTS
from coda_runtime.format.precision import precision_of
from coda_runtime.parity import ParityMeter, ParitySamples


@contextmanager
def naming_the_layer(meter: ParityMeter, artifact: Artifact, layers: LayersOf | None) -> Iterator[None]:
    """Add what `blamed` says to a ``ParityError`` of the block that checks a graph; without ``layers`` nothing."""
    try:
        yield
    except ParityError as error:
        if layers is None or artifact.part not in (ENCODER.name, DECODER.name):
            raise
        raise ParityError(f"{error}; {blamed(meter.bundle, artifact, meter.samples, layers)}") from error


def blamed(bundle: Bundle, artifact: Artifact, samples: ParitySamples, layers: LayersOf) -> str:
    """Return a clause that names the first layer of a graph that leaves its bound for the first image of ``samples``.

    The graph runs on onnxruntime's CPU provider beside ``layers``, up to that layer. Where none leaves its bound, it
    names the one that loses most by itself; where the layers cannot be run, it says why.
    """
    part = PARTS[artifact.part]
    given = first_image(samples, part)
    try:
        runner = Runner(bundle.spec, part.name, artifact.precision, LoadOptions("cpu", "onnxruntime"))
        graph = GraphActivations(onnx.load_from_string(bundle.read(artifact)), runner, given)
        rows: list[LayerRow] = []
        for row in layer_rows(layers(part.name, given), graph, precision_of(artifact.precision).layer_error):
            if not row.within:
                return f"it first leaves its bound at {row.path}, which alone is off by {row.own:.2%}"
            rows.append(row)
    except CodaError as error:
        return f"its layers could not be compared: {error}"
    worst = Comparison(part.name, tuple(rows)).worst
    if worst is None:
        return "no layer of it has a name to compare it by"
    return f"no layer leaves its bound, and {worst.path} loses most, {worst.own:.2%} alone"
