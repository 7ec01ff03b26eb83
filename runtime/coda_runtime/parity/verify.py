"""Measure all that a bundle holds by its own samples: every graph, on every backend that may load it here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from ..backends.base import Backend, LoadOptions
from ..backends.registry import name_for, runs
from ..errors import BackendError, CodaError, DeviceMemoryError, ParityError
from ..format.bundle import Bundle
from ..format.manifest import Artifact
from ..format.parity import ParityRecord
from ..format.parts import GRAPHS
from ..format.precision import DEFAULT_THRESHOLDS, Threshold, precision_of
from ..select import Candidate, candidates, named_backend
from .meter import ParityMeter
from .thresholds import check_threshold, recorded_thresholds, threshold_of

Result = tuple[Artifact, dict[str, ParityRecord], ParityError | None]


def measure_bundle(bundle: Bundle, options: LoadOptions | None = None) -> Iterator[Result]:
    """Yield (artifact, its parity, the threshold it misses or None) for the search table and for each graph.

    The thresholds are those the bundle was exported with. A backend that `options` name measures what it can load;
    "auto" measures each graph on every backend that is installed, loads its format and may be chosen unasked. What may
    not be loaded here, such as an engine for another GPU, is yielded with the reason and misses no threshold; what may
    be and does not run misses it, in every precision. Every precision is measured, whichever `options` name.

    Raises ArtifactError for a bundle without samples, BackendError for an unknown backend or one that can load nothing
    of the bundle, MissingDependencyError where its library is not installed.
    """
    options = options or LoadOptions()
    meter = ParityMeter.of_bundle(bundle)
    thresholds = {**DEFAULT_THRESHOLDS, **recorded_thresholds(bundle.manifest)}
    graphs = [artifact for artifact in bundle.manifest.artifacts if artifact.part in GRAPHS]
    if options.backend != "auto":
        graphs = _loadable(bundle, graphs, named_backend(options))
    table = bundle.manifest.find("search", format="npz")[0]
    parity = meter.measure_search()
    yield table, parity, _missed(table, parity, thresholds)
    for artifact in graphs:
        not_run: dict[str, ParityRecord] = {}
        measured: dict[str, ParityRecord] = {}
        for candidate in _installed(candidates(bundle, [artifact], options)):
            backend = candidate.backend
            where = f"{backend.name}:{options.device}"
            reason = _without_threshold(artifact, thresholds) or candidate.reason
            if reason is not None:
                not_run[where] = meter.not_run(artifact, reason)
                continue
            bundle.path(artifact)  # a file that is not there is an error, and no reason
            try:
                session = backend.load(bundle, artifact, options)
            except CodaError as error:
                failed = not_run if _may_lack(artifact, error) else measured
                failed[where] = meter.not_run(artifact, error)
            else:
                own = dataclasses.replace(options, backend=backend.name)
                measured |= meter.measure_session(artifact, backend.name, session, options=own)
        if measured and not precision_of(artifact.precision).onnxruntime_cpu:
            not_run = {}  # what one library lacks here, another one has
        if not not_run and not measured:
            name, why = _nothing(artifact)
            not_run[f"{name}:{options.device}"] = meter.not_run(artifact, why)
        yield artifact, not_run | measured, _missed(artifact, measured, thresholds)


def _loadable(bundle: Bundle, graphs: list[Artifact], backend: Backend) -> list[Artifact]:
    """Return those graphs that a backend loads. Raises MissingDependencyError, and BackendError where it loads none."""
    if (missing := backend.missing()) is not None:
        raise missing
    loadable = [graph for graph in graphs if graph.format in backend.formats and runs(backend.name, graph.part)]
    if not loadable:
        formats = sorted({artifact.format for artifact in graphs})
        raise BackendError(
            f"{bundle.folder} has {', '.join(formats)}, and {backend.name} loads {', '.join(backend.formats)}; "
            "choose another --backend, or make what it loads: coda build BUNDLE --engine ..."
        )
    return loadable


def _installed(found: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates whose library is installed, or one whose is not, to say so."""
    every = list(found)
    return [candidate for candidate in every if candidate.backend.missing() is None] or every[:1]


def _nothing(artifact: Artifact) -> tuple[str, CodaError]:
    """Return where an artifact would run that no backend takes unasked, and why it was not run."""
    try:
        name = name_for(artifact.format)
    except BackendError as error:
        return artifact.format, error
    return name, BackendError(f"{name} runs only on request: --backend {name}, for a bundle that you trust")


def _without_threshold(artifact: Artifact, thresholds: Mapping[str, Threshold]) -> CodaError | None:
    """Return why an artifact in this precision cannot be judged, None where it can."""
    try:
        threshold_of(thresholds, artifact.precision)
    except ParityError as error:
        return error
    return None


def _may_lack(artifact: Artifact, error: CodaError) -> bool:
    """Return whether an engine library that does not load a file says no more than that it lacks the precision."""
    onnx = artifact.format == "onnx" and not precision_of(artifact.precision).onnxruntime_cpu
    return onnx and not isinstance(error, DeviceMemoryError)


def _missed(
    artifact: Artifact, parity: Mapping[str, ParityRecord], thresholds: Mapping[str, Threshold]
) -> ParityError | None:
    try:
        threshold = threshold_of(thresholds, artifact.precision)
        for record in parity.values():
            check_threshold(artifact.part, artifact.precision, record, threshold, must_run=True)
    except ParityError as error:
        # Nothing was measured of a graph without a threshold: its reason is given instead.
        return error if parity else None
    return None
