"""The layers of a bundle's graphs, for one image that the bundle carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from coda_export.layers.compare import Comparison, compare
from coda_export.layers.sources import Activations, GraphActivations, LayersOf, Runner
from coda_runtime.backends.base import LoadOptions
from coda_runtime.errors import BackendError, CodaError, InputError, ParityError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parts import DECODER, ENCODER, Part
from coda_runtime.format.precision import FP32, how_to_add, precision_of
from coda_runtime.parity import ParitySamples, SavedReference
from coda_runtime.select import candidates, choose_precision

# Whatever the candidate, its reference runs where every exporter runs its graphs.
_REFERENCE = LoadOptions("cpu", "onnxruntime")


@dataclass(frozen=True)
class PartLayers:
    """A part's comparison: what ran where, and beside what."""

    precision: str
    backend: str
    beside: str
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        """Return it as `coda verify --json` prints it."""
        rows, first = self.comparison.rows, self.comparison.first
        return {
            "part": self.comparison.part,
            "precision": self.precision,
            "backend": self.backend,
            "beside": self.beside,
            "first": None if first is None else first.path,
            "layers": [row.to_json() for row in rows],
        }


def compare_bundle(bundle: Bundle, options: LoadOptions, tokenizer: LayersOf | None = None) -> Iterator[PartLayers]:
    """Yield the comparison of the encoder's layers, then of the decoder's, for the first image of the bundle's samples.

    The graphs in ``options.precision`` run where ``options`` say. They stand beside ``tokenizer``, or else beside the
    bundle's fp32 graphs on onnxruntime's CPU provider. "auto" is the bundle's default precision where a backend or the
    tokenizer is what is compared, and else its first other than fp32 that runs here.

    Raises ``InputError`` where both sides would be the same or the bundle lacks the precision, ``ArtifactError`` for a
    bundle without samples, ``BackendError`` where nothing runs the graphs here.
    """
    named = options.backend != "auto" or options.providers is not None
    precision = _precision(bundle, options, named or tokenizer is not None)
    samples = SavedReference.open(bundle).samples
    for part in (ENCODER, DECODER):
        artifact = _graph(bundle, part, precision)
        chosen = _where(bundle, artifact, options)
        given = first_image(samples, part)
        candidate = GraphActivations(
            onnx.load_from_string(bundle.read(artifact)), Runner(bundle.spec, part.name, precision, chosen), given
        )
        backend = candidate.backend
        reference: Activations
        if tokenizer is not None:
            reference, beside = tokenizer(part.name, given), "the tokenizer"
        elif (precision, backend, options.device, options.providers) in _same(options):
            raise InputError(
                f"{FP32} on {backend} is what layers are compared with: name another --precision, another --backend, "
                "or --tokenizer DIR"
            )
        else:
            graph = onnx.load_from_string(bundle.read(_graph(bundle, part, FP32)))
            own = dataclasses.replace(_REFERENCE, threads=options.threads)
            reference = GraphActivations(graph, Runner(bundle.spec, part.name, FP32, own), given)
            beside = f"{FP32} on {_REFERENCE.backend}"
        found = compare(part.name, reference, candidate, precision_of(precision).layer_error)
        yield PartLayers(precision, backend, beside, found)


def _same(options: LoadOptions) -> list[tuple[Any, ...]]:
    """Return what a candidate must not be: the reference."""
    return [(FP32, _REFERENCE.backend, device, None) for device in ("auto", "cpu")]


def first_image(samples: ParitySamples, part: Part) -> NDArray[Any]:
    """Return what a part is given for the first image: uint8 [1, H, W, 3] or its ids, int32 [1, L]."""
    return samples.of(part.input)[:1]


def _precision(bundle: Bundle, options: LoadOptions, compares_other: bool) -> str:
    if options.precision != "auto" or compares_other:
        return choose_precision(bundle.manifest, options.precision)
    problems: list[CodaError] = []
    for precision in (name for name in bundle.manifest.precisions if name != FP32):
        try:
            _where(bundle, _graph(bundle, ENCODER, precision), options)
        except CodaError as problem:
            problems.append(problem)
        else:
            return precision
    if problems:
        raise problems[0]
    raise InputError(
        f"{bundle.folder} has {', '.join(bundle.manifest.precisions)} alone: name --backend or --tokenizer DIR to "
        "compare its layers with, or add a precision with coda export --into"
    )


def _graph(bundle: Bundle, part: Part, precision: str) -> Artifact:
    found = bundle.manifest.find(part.name, format="onnx", precision=precision)
    if not found:
        raise InputError(
            f"{bundle.folder} has no ONNX file of the {part.name} in {precision}, which its layers are compared by; "
            f"{how_to_add(precision)}"
        )
    return found[0]


def _where(bundle: Bundle, artifact: Artifact, options: LoadOptions) -> LoadOptions:
    """Return the options with the backend that runs an ONNX file here. Raises the first one's reason if none does."""
    problems = []
    for candidate in candidates(bundle, [artifact], options):
        problem = candidate.backend.missing() or candidate.reason
        if problem is None:
            return dataclasses.replace(options, backend=candidate.backend, precision=artifact.precision)
        problems.append(problem)
    raise problems[0] if problems else BackendError(f"{options.backend} loads no ONNX files: choose another --backend")


def check_layers(found: PartLayers) -> ParityError | None:
    """Return the error that names the first layer that leaves its bound, None where all keep it."""
    row = found.comparison.first
    if row is None:
        return None
    return ParityError(
        f"the {found.precision} {found.comparison.part} on {found.backend} first leaves its bound at {row.path}: "
        f"given what {found.beside} gives it, its output is off by {row.own:.2%}, the bound is {row.bound:.2%}; "
        "look at that layer's weights and scales, or take another precision"
    )
