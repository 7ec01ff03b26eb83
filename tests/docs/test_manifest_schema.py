"""docs/manifest.schema.json beside the reader: what exports write is valid, and what is broken is so for both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from coda_runtime.errors import ManifestError
from coda_runtime.format.manifest import FORMAT_VERSION, Manifest
from tests.docs.pages import ROOT

SCHEMA = json.loads((ROOT / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
FROZEN = sorted((ROOT / "tests" / "compatibility" / "data").glob("*/*/manifest.json"))
BUNDLES = [path for path in FROZEN if "artifacts" in json.loads(path.read_text(encoding="utf-8"))]

Change = Callable[[dict[str, Any]], None]


def problems(manifest: object) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in VALIDATOR.iter_errors(manifest)]


@pytest.fixture
def exported(tiny_bundle: Path) -> dict[str, Any]:
    """The manifest of a bundle as `coda export` writes it now, in three precisions."""
    manifest: dict[str, Any] = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    return manifest


@pytest.fixture
def manifest() -> dict[str, Any]:
    """One as an older version wrote it, to be changed."""
    read: dict[str, Any] = json.loads(BUNDLES[0].read_text(encoding="utf-8"))
    return read


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format_version"]["const"] == FORMAT_VERSION


def test_an_export_is_valid(exported: dict[str, Any]) -> None:
    assert problems(exported) == []
    Manifest.from_json(exported)


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.relative_to(FROZEN[0].parents[2]).as_posix())
def test_what_older_versions_wrote_is_valid(path: Path) -> None:
    assert problems(json.loads(path.read_text(encoding="utf-8"))) == []


def test_every_key_of_an_export_is_named(exported: dict[str, Any]) -> None:
    named = SCHEMA["$defs"]
    assert exported.keys() <= SCHEMA["properties"].keys()
    assert exported["spec"].keys() <= named["spec"]["properties"].keys()
    assert exported["provenance"].keys() <= named["provenance"]["properties"].keys()
    for artifact in exported["artifacts"]:
        assert artifact.keys() <= named["artifact"]["properties"].keys()
        for measured in artifact["parity"].values():
            assert measured.keys() <= named["measurement"]["properties"].keys()


def _set(*keys: str | int, to: object) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        inner: Any = manifest
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


def _without(*keys: str | int) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        inner: Any = manifest
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


def _without_part(part: str) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest["artifacts"] = [artifact for artifact in manifest["artifacts"] if artifact["part"] != part]

    return change


BROKEN: dict[str, Change] = {
    **{f"no {key}": _without(key) for key in SCHEMA["required"]},
    **{f"no spec.{key}": _without("spec", key) for key in SCHEMA["$defs"]["spec"]["required"]},
    **{f"no artifact's {key}": _without("artifacts", 0, key) for key in SCHEMA["$defs"]["artifact"]["required"]},
    **{f"no {part}": _without_part(part) for part in ("encoder", "quantizer", "decoder")},
    "a newer version": _set("format_version", to=FORMAT_VERSION + 1),
    "version 0": _set("format_version", to=0),
    "a list as spec": _set("spec", to=[]),
    "a large image": _set("spec", "image_size", to=8193),
    "a large vocabulary": _set("spec", "vocab_size", to=2**24 + 1),
    "many tokens": _set("spec", "num_tokens", to=2**22 + 1),
    "many channels": _set("spec", "latent_channels", to=2**28 + 1),
    "no pixels": _set("spec", "image_size", to=0),
    "text as a number": _set("spec", "vocab_size", to="64"),
    "no scales": _set("spec", "scales", to=[]),
    "a large scale": _set("spec", "scales", to=[1, 1025]),
    "a scale twice": _set("spec", "scales", to=[1, 1, 2]),
    "artifacts as an object": _set("artifacts", to={}),
    "a short checksum": _set("artifacts", 0, "sha256", to="ab"),
    "a capital in a checksum": _set("artifacts", 0, "sha256", to="A" * 64),
    "a negative size": _set("artifacts", 0, "bytes", to=-1),
    "an absolute file name": _set("artifacts", 0, "file", to="/etc/passwd"),
    "a hidden file": _set("artifacts", 0, "file", to=".git/config"),
    "a drive": _set("artifacts", 0, "file", to="C:x.onnx"),
    "a batch of two numbers": _set("artifacts", 0, "batch", to=[1, 2]),
    "a batch from 0": _set("artifacts", 0, "batch", to=[0, 1, 2]),
    "a batch over the limit": _set("artifacts", 0, "batch", to=[1, 2, 65537]),
    "one profile": _set("artifacts", 0, "profiles", to=[[1, 2, 3]]),
    "a profile twice": _set("artifacts", 0, "profiles", to=[[1, 2, 3], [1, 2, 3]]),
    "many profiles": _set("artifacts", 0, "profiles", to=[[1, 1, high] for high in range(1, 18)]),
    "text as an engine": _set("artifacts", 0, "engine", to="tensorrt"),
    "a list as parity": _set("artifacts", 0, "parity", to=[]),
    "an empty precision": _set("default_precision", to=""),
    "another list of checksums": _set("checksums", to="MD5SUMS"),
    "a number as licence": _set("license", to=3),
    "text as provenance": _set("provenance", to="me"),
}


# What the reader says is the limit: another reason would hide that the two differ.
LIMITS = {
    "a large image": 8192,
    "a large vocabulary": 2**24,
    "many tokens": 2**22,
    "many channels": 2**28,
    "a large scale": 1024,
    "a batch over the limit": 65536,
    "many profiles": 16,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_so_for_the_reader_and_the_schema(manifest: dict[str, Any], name: str) -> None:
    BROKEN[name](manifest)
    assert problems(manifest)
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(manifest)
    assert str(LIMITS.get(name, "")) in str(caught.value)


def test_batch_and_profiles_exclude_each_other(manifest: dict[str, Any]) -> None:
    manifest["artifacts"][0] |= {"batch": [1, 2, 4], "profiles": [[1, 2, 4], [4, 8, 8]]}
    assert problems(manifest)
    with pytest.raises(ManifestError, match="batch and profiles"):
        Manifest.from_json(manifest)
    manifest["artifacts"][0]["batch"] = None
    assert problems(manifest) == []
    Manifest.from_json(manifest)


@pytest.mark.parametrize(
    "change",
    [
        _set("spec", "mine", to=1),
        _set("mine", to=1),
        _set("artifacts", 0, "mine", to=1),
        _set("artifacts", 0, "format", to="new"),
        _set("license", to=None),
        _without("checksums"),
        _without("provenance"),
        _set("artifacts", 0, "batch", to=[1, 8, 65536]),
    ],
    ids=["spec", "top", "artifact", "format", "licence", "unsealed", "by hand", "batch"],
)
def test_what_may_be_otherwise_may_be_so_for_both(manifest: dict[str, Any], change: Change) -> None:
    change(manifest)
    assert problems(manifest) == []
    Manifest.from_json(manifest)
