"""What a new engine computes in and how faithfully, where it can run; where it cannot, the reason."""

from __future__ import annotations

import dataclasses

from ..backends.base import LoadOptions, SelectiveBackend
from ..backends.registry import get_backend, name_for
from ..backends.tensorrt.backend import TensorRTBackend
from ..backends.tensorrt.inspection import check_precision
from ..errors import ArtifactError
from ..format.bundle import Bundle
from ..format.manifest import Artifact
from ..format.parity import NotMeasured, headline
from ..format.precision import DEFAULT_FLOORS
from ..parity import ParityMeter, check_floor, floor_of, recorded_floors


def with_parity(bundle: Bundle, artifact: Artifact, device: str = "cuda") -> Artifact:
    """The artifact with its parity, measured on `device` at MIN, OPT and MAX of its profile.

    What may not load on this machine, or has no samples to be measured with, gets null and the reason. Raises
    BuildError when the inspector finds an engine in another precision than it is called, ParityError when an engine
    that may load here does not run, or falls under its precision's floor.
    """
    # An engine that was just built here, with host code or without, is ours to run.
    options = LoadOptions(device=device, manifest=bundle.manifest, allow_host_code=True)
    name = name_for(artifact.format)
    engine = get_backend(name)
    refused = engine.unavailable()
    if refused is None and isinstance(engine, SelectiveBackend):
        refused = engine.refusal(artifact, options)
    try:
        meter = ParityMeter.of_bundle(bundle)
    except ArtifactError as error:
        refused = refused or error
    if refused is not None:
        nothing = NotMeasured(str(refused), headline(artifact.part))
        return dataclasses.replace(artifact, parity={f"{name}:{device}": nothing.to_json()})
    if isinstance(engine, TensorRTBackend):
        check_precision(engine.information(bundle.path(artifact), artifact, options), artifact.precision)
    parity = meter.measure(artifact, name, device, allow_host_code=True)
    floors = {**DEFAULT_FLOORS, **recorded_floors(bundle.manifest)}
    for record in parity.values():
        floor = floor_of(floors, artifact.precision)
        check_floor(artifact.part, artifact.precision, record, floor, must_run=True)
    return dataclasses.replace(artifact, parity={where: record.to_json() for where, record in parity.items()})
