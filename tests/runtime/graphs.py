"""Bundles that somebody made to do harm, and ONNX files that a bundle must not hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx

from coda_runtime.format.bundle import Bundle
from coda_runtime.format.checksums import format_sums, sha256_file
from tests.runtime import tiny


def vouch(folder: Path) -> None:
    """Seal a bundle's files as they are now, without the checks of `seal`, as who made it can."""
    manifest = Bundle.open(folder).manifest
    changed = tuple(tiny.describe(folder, artifact.file) for artifact in manifest.artifacts)
    (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, artifacts=changed).dump())
    names = ["manifest.json", *(artifact.file for artifact in changed)]
    (folder / "SHA256SUMS").write_bytes(format_sums({name: sha256_file(folder / name) for name in names}))


def make_external(path: Path, location: str) -> None:
    """Let the first weight of a model lie in another file."""
    model = onnx.load(path)
    set_external(model.graph.initializer[0], location)
    path.write_bytes(model.SerializeToString())


def set_external(tensor: Any, location: str) -> None:
    """Let a tensor's values lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
