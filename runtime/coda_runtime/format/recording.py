"""Write what was measured into the bundle's manifest: engines that were built elsewhere are measured where they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..errors import InputError, OutputError
from ..io.hub_cache import blobs_of
from .bundle import Bundle, seal
from .engine_key import with_scratch
from .manifest import CHECKSUMS_NAME, MANIFEST_NAME, Artifact, Manifest
from .parity import Measured, ParityRecord, unmeasured


def check_recordable(bundle: Bundle) -> None:
    """Raise InputError for a bundle whose manifest is not to be changed: one in the Hub's cache, or not sealed."""
    folder = bundle.folder.resolve()
    if blobs_of(folder) is not None or any((folder / name).is_symlink() for name in (MANIFEST_NAME, CHECKSUMS_NAME)):
        raise InputError(
            f"{bundle.folder} is the Hub's cache or a folder of links, whose files must not be changed; copy it "
            f"(cp -rL {bundle.folder} COPY), and record in the copy: coda verify COPY --parity --record"
        )
    if bundle.manifest.checksums is None:
        raise InputError(
            f"{bundle.folder} is not sealed (no {CHECKSUMS_NAME}): recording would vouch for files that nobody sealed; "
            "export it with coda export, or measure without --record"
        )


def record_parity(
    bundle: Bundle,
    measured: Mapping[str, Mapping[str, ParityRecord]],
    scratch_bytes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> tuple[Manifest, list[str]]:
    """Merge `measured`, {artifact file: {backend:device: record}}, into the manifest, and seal it again.

    `scratch_bytes`, {artifact file: of each batch profile}, is what engines told of themselves meanwhile.

    Numbers of the same backend and device are replaced, and with them goes what the same backend could not run
    before. What was not measured is not written. Returns the manifest and the files that got
    numbers; where there are none, nothing is written. Only manifest.json and SHA256SUMS change, each written beside
    and renamed; every file is hashed again first.

    Raises InputError as `check_recordable` does, OutputError when the manifest has changed since the bundle was
    opened or cannot be written, ChecksumError for a file that differs from it.
    """
    check_recordable(bundle)
    artifacts, files = [], []
    for artifact in bundle.manifest.artifacts:
        found = measured.get(artifact.file, {})
        numbers = {where: record.to_json() for where, record in found.items() if isinstance(record, Measured)}
        if numbers:
            files.append(artifact.file)
            artifact = _merged(artifact, numbers)
            if artifact.file in scratch_bytes:
                artifact = with_scratch(artifact, scratch_bytes[artifact.file])
        artifacts.append(artifact)
    if not files:
        return bundle.manifest, files
    if Bundle.open(bundle.folder).manifest != bundle.manifest:
        raise OutputError(
            f"{bundle.folder / MANIFEST_NAME} has changed since it was read, and nothing was recorded; run it again"
        )
    return seal(bundle.folder, dataclasses.replace(bundle.manifest, artifacts=tuple(artifacts))), files


def _merged(artifact: Artifact, numbers: Mapping[str, Any]) -> Artifact:
    backends = {_backend(where) for where in numbers}
    superseded = [where for where, _ in unmeasured(artifact.parity) if _backend(where) in backends]
    kept = {where: old for where, old in artifact.parity.items() if where not in superseded}
    return dataclasses.replace(artifact, parity=kept | dict(numbers))


def _backend(where: str) -> str:
    return where.partition(":")[0]
