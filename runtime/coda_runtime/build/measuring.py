"""What a new engine computes in and how faithfully, where it can run; where it cannot, the reason."""

from __future__ import annotations

import dataclasses

from ..backends.base import LoadOptions
from ..backends.registry import name_for
from ..backends.tensorrt.backend import TensorRTBackend
from ..backends.tensorrt.inspection import check_precision
from ..errors import ArtifactError
from ..format.bundle import Bundle
from ..format.manifest import Artifact
from ..format.parity import NotMeasured, headline, parity_json
from ..format.precision import DEFAULT_FLOORS
from ..parity import ParityMeter, check_floor, floor_of, recorded_floors
from ..select import candidates


def with_parity(bundle: Bundle, artifact: Artifact, device: str = "cuda") -> Artifact:
    """The artifact with its parity, measured on `device` at MIN, OPT and MAX of its profile.

    What may not load on this machine, or has no samples to be measured with, gets null and the reason. Raises
    BuildError when the inspector finds an engine in another precision than it is called, ParityError when an engine
    that may load here does not run, or falls under its precision's floor.
    """
    # An engine that was just built here, with host code or without, is ours to run.
    options = LoadOptions(device, backend=name_for(artifact.format), allow_host_code=True)
    (found,) = candidates(bundle, [artifact], options)
    refused = found.reason
    try:
        meter = ParityMeter.of_bundle(bundle)
    except ArtifactError as error:
        refused = refused or error
    if refused is not None:
        nothing = NotMeasured(str(refused), headline(artifact.part))
        return dataclasses.replace(artifact, parity={f"{found.backend.name}:{device}": nothing.to_json()})
    if isinstance(found.backend, TensorRTBackend):
        check_precision(found.backend.information(bundle, artifact, options), artifact.precision)
    parity = meter.measure(artifact, options)
    floors = {**DEFAULT_FLOORS, **recorded_floors(bundle.manifest)}
    for record in parity.values():
        floor = floor_of(floors, artifact.precision)
        check_floor(artifact.part, artifact.precision, record, floor, must_run=True)
    return dataclasses.replace(artifact, parity=parity_json(parity))
