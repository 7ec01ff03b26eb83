"""Every layer beside its reference: what it has lost by then, and what it loses by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_export.layers.names import Layer
from coda_export.layers.sources import Activations, GraphActivations, Values
from coda_runtime.codes.metrics import json_number

AT_ONCE = 1 << 24
"""Numbers of layers' outputs that are compared at a time: 64 MiB, of which there are several copies."""


@dataclass(frozen=True)
class LayerRow:
    """One layer: all errors are relative, the root of the squares' sum beside the reference's.

    ``error`` is that of its output as the graph computes it, ``own`` of its output when it is given the reference's
    inputs, which must be at most ``bound``. ``inputs`` is the largest ``error`` of what it reads, None for the first.
    """

    path: str
    error: float
    own: float
    bound: float
    psnr: float
    cosine: float
    inputs: float | None

    @property
    def within(self) -> bool:
        """Whether the layer keeps its bound; what is not finite does not."""
        return self.own <= self.bound and math.isfinite(self.error)

    @property
    def growth(self) -> float | None:
        """By how much the error is larger than that of what the layer reads, None where that is none."""
        return self.error / self.inputs if self.inputs else None

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name; what is not finite is null."""
        figures = {"error": self.error, "own": self.own, "bound": self.bound, "psnr": self.psnr, "cosine": self.cosine}
        growth = {"growth": None if self.growth is None else json_number(self.growth)}
        return {"layer": self.path, **{n: json_number(v) for n, v in figures.items()}, **growth, "within": self.within}


@dataclass(frozen=True)
class Comparison:
    """A part's layers in the order of its graph."""

    part: str
    rows: tuple[LayerRow, ...]

    @property
    def first(self) -> LayerRow | None:
        """The first layer that leaves its bound."""
        return next((row for row in self.rows if not row.within), None)

    @property
    def worst(self) -> LayerRow | None:
        """The layer that loses most by itself."""
        return max(self.rows, key=lambda row: math.inf if math.isnan(row.own) else row.own, default=None)


def compare(
    part: str, reference: Activations, candidate: GraphActivations, bound: float, *, at_once: int = AT_ONCE
) -> Comparison:
    """Compare every layer that both have; the rest is as for `layer_rows`."""
    return Comparison(part, tuple(layer_rows(reference, candidate, bound, at_once=at_once)))


def layer_rows(
    reference: Activations, candidate: GraphActivations, bound: float, *, at_once: int = AT_ONCE
) -> Iterator[LayerRow]:
    """Yield a row for every layer that both have, in the candidate's order.

    No more than ``at_once`` numbers are compared at a time, with what they read. Raises what running the graphs does.
    """
    layers = candidate.among({path for path in candidate.paths if path in reference.paths})
    errors: dict[str, float] = {}
    for group in _groups(layers, at_once):
        read = {path for layer in group for path in layer.inputs}
        expected = reference.values([layer.path for layer in layers if layer in group or layer.path in read])
        found = candidate.values([layer.path for layer in group])
        fed = [layer for layer in group if layer.inputs]
        alone: Values = candidate.alone(fed, expected, layers) if fed else {}
        for layer in group:
            row = _row(layer, expected, found, alone, errors, bound)
            errors[layer.path] = row.error
            yield row


def _row(
    layer: Layer, expected: Values, found: Values, alone: Values, errors: Mapping[str, float], bound: float
) -> LayerRow:
    a, b = expected[layer.path], found[layer.path]
    error = relative_error(a, b)
    return LayerRow(
        layer.path,
        error,
        relative_error(a, alone[layer.path]) if layer.path in alone else error,
        bound,
        _psnr(a, b),
        _cosine(a, b),
        max((errors[path] for path in layer.inputs), default=None),
    )


def _groups(layers: Sequence[Layer], at_once: int) -> Iterator[list[Layer]]:
    """Yield the layers in groups of so many numbers, at least one layer each."""
    group: list[Layer] = []
    size = 0
    for layer in layers:
        own = math.prod(layer.shape)
        if group and size + own > at_once:
            yield group
            group, size = [], 0
        group.append(layer)
        size += own
    if group:
        yield group


def relative_error(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return |found - expected| / |expected|; inf where something is not finite or only ``expected`` is nothing."""
    if not np.isfinite(found).all():
        return math.inf
    apart, size = _norm(found - expected), _norm(expected)
    return apart / size if size else (math.inf if apart else 0.0)


def _norm(array: NDArray[np.float32]) -> float:
    # In float64, and without a copy of that width.
    return math.sqrt(float(np.einsum("i,i->", array, array, dtype=np.float64, casting="unsafe")))


def _psnr(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the PSNR in dB, by the reference's range; inf for what is equal."""
    apart, span = _norm(found - expected), float(np.ptp(expected))
    if not math.isfinite(apart) or not span:
        return -math.inf if apart or not math.isfinite(apart) else math.inf
    return math.inf if apart == 0 else 20 * math.log10(span * math.sqrt(expected.size) / apart)


def _cosine(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    sizes = _norm(expected) * _norm(found)
    return float(np.einsum("i,i->", expected, found, dtype=np.float64, casting="unsafe")) / sizes if sizes else math.nan
