"""The parity of a new engine, where it can run; where it cannot, the reason."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..backends.base import LoadOptions, SelectiveBackend
from ..backends.registry import get_backend
from ..bundle import Bundle
from ..errors import CodaError
from ..manifest import Artifact
from ..parity import DEFAULT_FLOORS, ParityError, ParityMeter, check_floor, recorded_floors


def with_parity(bundle: Bundle, artifact: Artifact, device: str = "cuda") -> Artifact:
    """The artifact with its parity, measured on `device` at MIN, OPT and MAX of its profile.

    What may not load on this machine, or has no samples to be measured with, gets null and the reason. Raises
    ParityError when an engine that may load here does not run, or falls under its precision's floor.
    """
    refused = _refusal(bundle, artifact, device)
    if refused is not None:
        headline = "psnr" if artifact.part == "decoder" else "step_agreement"
        nothing: dict[str, Any] = {headline: None, "reason": str(refused)}
        return dataclasses.replace(artifact, parity={f"{artifact.format}:{device}": nothing})
    parity = ParityMeter.of_bundle(bundle).measure(artifact, artifact.format, device)
    floors = {**DEFAULT_FLOORS, **recorded_floors(bundle.manifest)}
    for numbers in parity.values():
        if "reason" in numbers:  # a low precision too: nothing stands in the way of this engine here
            raise ParityError(f"{artifact.file} was built for this machine and does not run: {numbers['reason']}")
        check_floor(artifact.part, artifact.precision, numbers, floors[artifact.precision])
    return dataclasses.replace(artifact, parity=parity)


def _refusal(bundle: Bundle, artifact: Artifact, device: str) -> CodaError | None:
    """Why the engine cannot be measured here."""
    engine = get_backend(artifact.format)
    missing = engine.unavailable()
    if missing is not None:
        return missing if isinstance(missing, CodaError) else CodaError(str(missing))
    # An engine that was just built here, with host code or without, is ours to run.
    options = LoadOptions(device=device, manifest=bundle.manifest, allow_host_code=True)
    refused = engine.refusal(artifact, options) if isinstance(engine, SelectiveBackend) else None
    if refused is not None:
        return refused
    try:
        ParityMeter.of_bundle(bundle)
    except CodaError as error:
        return error
    return None
