"""What a new engine computes in and how faithfully, where it can run; where it cannot, the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..backends.base import LoadOptions
from ..backends.registry import get_backend, name_for
from ..backends.tensorrt.backend import TensorRTBackend
from ..backends.tensorrt.inspection import check_precision
from ..backends.tensorrt.library import LIBRARIES
from ..errors import ArtifactError
from ..format.bundle import Bundle
from ..format.engine_key import with_scratch
from ..format.manifest import Artifact
from ..format.parity import Measured, NotMeasured, ParityRecord, headline, parity_json
from ..format.precision import DEFAULT_THRESHOLDS
from ..parity import ParityMeter, check_threshold, recorded_thresholds, threshold_of
from ..select import candidates


def with_parity(bundle: Bundle, artifact: Artifact, device: str = "cuda") -> Artifact:
    """Return the artifact with its parity, measured on `device` at MIN, OPT and MAX of its batch profiles.

    An engine's key gets the memory that each profile's contexts work in, which the engine says once it is loaded. What
    may not load on this machine, or has no samples to be measured with, gets null and the reason. Raises
    BuildError when the inspector finds an engine in another precision than it is called, ParityError when an engine
    that may load here does not run, or falls below its precision's threshold.
    """
    # An engine that was just built here, with host code or without, is ours to run.
    options = LoadOptions(device, backend=name_for(artifact.format), allow_host_code=True)
    (found,) = candidates(bundle, [artifact], options)
    problem = found.reason
    try:
        meter = ParityMeter.of_bundle(bundle)
    except ArtifactError as error:
        problem = problem or error
    if problem is not None:
        nothing = NotMeasured(str(problem), headline(artifact.part))
        return dataclasses.replace(artifact, parity={f"{found.backend.name}:{device}": nothing.to_json()})
    if isinstance(found.backend, TensorRTBackend):
        facts = found.backend.facts(bundle, artifact, options)
        check_precision(facts.layers, artifact.precision)
        artifact = with_scratch(artifact, facts.scratch_bytes)
    parity = meter.measure(artifact, options)
    thresholds = {**DEFAULT_THRESHOLDS, **recorded_thresholds(bundle.manifest)}
    for record in parity.values():
        threshold = threshold_of(thresholds, artifact.precision)
        check_threshold(artifact.part, artifact.precision, record, threshold, must_run=True)
    return dataclasses.replace(artifact, parity=parity_json(parity))


def scratch_of(
    bundle: Bundle, measured: Mapping[str, Mapping[str, ParityRecord]], options: LoadOptions
) -> dict[str, tuple[int, ...]]:
    """Return {artifact file: memory of each batch profile's contexts} of the engines that were measured with `options`.

    Raises as a backend's `load` does.
    """
    found = {}
    for artifact in bundle.manifest.artifacts:
        ran = any(isinstance(record, Measured) for record in measured.get(artifact.file, {}).values())
        backend = get_backend(name_for(artifact.format)) if ran and artifact.format in LIBRARIES else None
        if isinstance(backend, TensorRTBackend):
            found[artifact.file] = backend.facts(bundle, artifact, options).scratch_bytes
    return found
