"""Measure all that a bundle holds by its own samples: every graph, on every backend that may load it here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..backends.base import Backend, LoadOptions, SelectiveBackend
from ..backends.registry import get_backend, names
from ..bundle import Bundle
from ..errors import BackendError, CodaError
from ..manifest import PARTS, Artifact
from .floors import DEFAULT_FLOORS, ParityError, check_floor, recorded_floors
from .meter import ParityMeter

Measured = tuple[Artifact, dict[str, Any], ParityError | None]


def measure_bundle(bundle: Bundle, backend: str = "auto", device: str = "auto") -> Iterator[Measured]:
    """Yield (artifact, its parity, the floor it misses or None) for the search table and for each graph.

    The floors are those the bundle was exported with. A `backend` measures what it can load; "auto" measures each
    graph on every backend that is installed and loads its format. What may not be loaded here, such as an engine for
    another GPU, is yielded with the `reason` and misses no floor.

    Raises ArtifactError for a bundle without samples, BackendError for an unknown backend or one that can load nothing
    of the bundle, MissingDependencyError where its library is not installed, InputError for an unknown device.
    """
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
        refused: dict[str, Any] = {}
        measured: dict[str, Any] = {}
        for engine in _engines(artifact, backend):
            refusal = _refusal(bundle, artifact, engine, device, floors)
            if refusal is not None:
                refused[f"{engine.name}:{device}"] = meter.not_run(artifact, refusal)
            else:
                measured |= meter.measure(artifact, engine.name, device)
        if not refused and not measured:
            none = BackendError(f"no backend here loads the format {artifact.format!r}; update coda-runtime")
            refused[f"{artifact.format}:{device}"] = meter.not_run(artifact, none)
        yield artifact, refused | measured, _missed(artifact, measured, floors)


def _engines(artifact: Artifact, backend: str) -> list[Backend]:
    """The installed backends that load the artifact's format, or one that is not installed, to say so."""
    engines = [get_backend(name) for name in (names() if backend == "auto" else (backend,))]
    fitting = [engine for engine in engines if artifact.format in engine.formats]
    return [engine for engine in fitting if engine.unavailable() is None] or fitting[:1]


def _refusal(
    bundle: Bundle, artifact: Artifact, engine: Backend, device: str, floors: dict[str, Any]
) -> CodaError | None:
    """Why an artifact is not to be measured here, None where it is."""
    if artifact.precision not in floors:
        return BackendError(f"there is no floor for the precision {artifact.precision!r} to hold it to")
    missing = engine.unavailable()
    if missing is not None:
        return missing if isinstance(missing, CodaError) else BackendError(str(missing))
    if isinstance(engine, SelectiveBackend):
        return engine.refusal(artifact, LoadOptions(device=device, manifest=bundle.manifest))
    return None


def _missed(artifact: Artifact, parity: dict[str, Any], floors: dict[str, Any]) -> ParityError | None:
    try:
        for numbers in parity.values():
            check_floor(artifact.part, artifact.precision, numbers, floors[artifact.precision])
    except ParityError as error:
        return error
    return None
