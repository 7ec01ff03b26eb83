"""Measure all that a bundle holds by its own samples: every graph, on every backend that may load it here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..backends.base import Backend, LoadOptions, SelectiveBackend
from ..backends.registry import automatic, get_backend, name_for
from ..errors import BackendError, CodaError, DeviceMemoryError, ParityError
from ..format.bundle import Bundle
from ..format.manifest import Artifact
from ..format.parity import ParityRecord
from ..format.parts import PARTS
from ..format.precision import DEFAULT_FLOORS, Floor, precision_of
from .meter import ParityMeter
from .thresholds import check_floor, floor_of, recorded_floors

Result = tuple[Artifact, dict[str, ParityRecord], ParityError | None]


def measure_bundle(
    bundle: Bundle, backend: str = "auto", device: str = "auto", *, allow_host_code: bool = False
) -> Iterator[Result]:
    """Yield (artifact, its parity, the floor it misses or None) for the search table and for each graph.

    The floors are those the bundle was exported with. A `backend` measures what it can load; "auto" measures each
    graph on every backend that is installed, loads its format and may be chosen unasked. What may not be loaded here,
    such as an engine for another GPU, is yielded with the reason and misses no floor; what may be and does not run
    misses it, in every precision. `allow_host_code` is that of LoadOptions: only for a bundle that you trust.

    Raises ArtifactError for a bundle without samples, BackendError for an unknown backend or one that can load nothing
    of the bundle, MissingDependencyError where its library is not installed, InputError for an unknown device.
    """
    options = LoadOptions(device=device, manifest=bundle.manifest, allow_host_code=allow_host_code)
    meter = ParityMeter.of_bundle(bundle)
    floors = {**DEFAULT_FLOORS, **recorded_floors(bundle.manifest)}
    graphs = [artifact for artifact in bundle.manifest.artifacts if artifact.part in PARTS]
    if backend != "auto":
        engine = get_backend(backend)
        if (missing := engine.unavailable()) is not None:
            raise missing
        formats = {artifact.format for artifact in graphs}
        graphs = [artifact for artifact in graphs if artifact.format in engine.formats]
        if not graphs:
            raise BackendError(
                f"{bundle.folder} has {', '.join(sorted(formats))}, and {backend} loads {', '.join(engine.formats)}; "
                "choose another --backend, or make what it loads: coda build BUNDLE --engine ..."
            )
    table = bundle.manifest.find("search", format="npz")[0]
    parity = meter.measure_search()
    yield table, parity, _missed(table, parity, floors)
    for artifact in graphs:
        refused: dict[str, ParityRecord] = {}
        measured: dict[str, ParityRecord] = {}
        for engine in _engines(artifact, backend):
            refusal = _refusal(artifact, engine, options, floors)
            if refusal is not None:
                refused[f"{engine.name}:{device}"] = meter.not_run(artifact, refusal)
                continue
            path = bundle.path(artifact)
            try:
                session = engine.load(path, artifact, options)
            except CodaError as error:
                failed = refused if _may_lack(artifact, error) else measured
                failed[f"{engine.name}:{device}"] = meter.not_run(artifact, error)
            else:
                measured |= meter.measure_session(artifact, engine.name, session)
        if not refused and not measured:
            place, why = _nothing(artifact)
            refused[f"{place}:{device}"] = meter.not_run(artifact, why)
        yield artifact, refused | measured, _missed(artifact, measured, floors)


def _engines(artifact: Artifact, backend: str) -> list[Backend]:
    """The installed backends that load the artifact's format, or one that is not installed, to say so."""
    engines = [get_backend(name) for name in (automatic([artifact.format]) if backend == "auto" else (backend,))]
    fitting = [engine for engine in engines if artifact.format in engine.formats]
    return [engine for engine in fitting if engine.unavailable() is None] or fitting[:1]


def _nothing(artifact: Artifact) -> tuple[str, CodaError]:
    """Where an artifact would run that no backend takes unasked, and why it was not run."""
    try:
        name = name_for(artifact.format)
    except BackendError as error:
        return artifact.format, error
    return name, BackendError(f"{name} runs only where it is asked for: --backend {name}, for a bundle that you trust")


def _refusal(
    artifact: Artifact, engine: Backend, options: LoadOptions, floors: Mapping[str, Floor]
) -> CodaError | None:
    """Why an artifact is not to be measured here, None where it is."""
    try:
        floor_of(floors, artifact.precision)
    except ParityError as error:
        return error
    missing = engine.unavailable()
    if missing is not None:
        return missing if isinstance(missing, CodaError) else BackendError(str(missing))
    if isinstance(engine, SelectiveBackend):
        return engine.refusal(artifact, options)
    return None


def _may_lack(artifact: Artifact, error: CodaError) -> bool:
    """Whether an engine library that does not load a file says no more than that it lacks the precision."""
    onnx = artifact.format == "onnx" and not precision_of(artifact.precision).onnxruntime_cpu
    return onnx and not isinstance(error, DeviceMemoryError)


def _missed(artifact: Artifact, parity: Mapping[str, ParityRecord], floors: Mapping[str, Floor]) -> ParityError | None:
    try:
        floor = floor_of(floors, artifact.precision)
        for record in parity.values():
            check_floor(artifact.part, artifact.precision, record, floor, must_run=True)
    except ParityError as error:
        # Nothing was measured of a graph without a floor: its reason is told instead.
        return error if parity else None
    return None
