"""Which engine may load where: what it was built of, with and for, and how that differs from what is here.

An engine of another library version, GPU or operating system fails at load at best. One of another ONNX file loads,
and gives the tokens of another tokenizer.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import EngineMismatchError
from .manifest import Artifact, Manifest


class HasFlags(Protocol):
    """The options of a build, as far as an engine's key tells them."""

    def flags(self) -> dict[str, Any]:
        """Return what of them is part of the key, as JSON holds it."""
        ...


def system() -> str:
    """This machine's operating system and processor, such as "linux-x86_64"."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return f"{platform.system().lower()}-{machine}"


def engine_key(
    *,
    library: str,
    library_version: str,
    targets: tuple[str, ...],
    onnx: Artifact,
    options: HasFlags,
    gpu: str | None,
    driver: str | None,
) -> dict[str, Any]:
    """The `engine` object of an artifact: all that decides whether it may load.

    `targets` are compute capabilities, as "sm89". `gpu` is the model it was tuned on, None when it was built without
    one; `driver` is the NVIDIA driver's version, recorded for whoever reads it, and not compared.
    """
    return {
        "library": library,
        "library_version": library_version,
        "targets": list(targets),
        "gpu": gpu,
        "os": system(),
        "driver": driver,
        "onnx": {"file": onnx.file, "sha256": onnx.sha256},
        "flags": options.flags(),
    }


def refusal(
    artifact: Artifact,
    manifest: Manifest | None,
    *,
    library: str,
    library_version: str,
    compute_capability: str | None,
    gpu: str | None = None,
    os: str | None = None,
    targets: tuple[str, ...] = (),
) -> EngineMismatchError | None:
    """Why an engine may not load here, None where it may.

    `library_version`, `compute_capability` ("sm89"), `gpu` (the model's name) and `os` (this machine's `system()` by
    default) describe this machine; what is None is not compared. `manifest` is compared with the ONNX file that the
    engine was built from. `targets` are those the library can build for ahead of time, for the way out.
    """
    key: Mapping[str, Any] = artifact.engine or {}
    here = os or system()
    found = []
    if not key or artifact.batch is None:
        found.append("the manifest does not say what it was built for")
    else:
        if artifact.format != library or key.get("library") != library:
            found.append(f"it was built by {key.get('library')!r}, and this is {library}")
        if not _version_fits(key, library_version):
            found.append(f"it was built by version {key.get('library_version')}, and {library_version} is installed")
        found += _gpu_differences(key, compute_capability, gpu)
        # TensorRT-RTX engines are compiled on the user's machine and cross systems; TensorRT's never do.
        if library == "tensorrt" and key.get("os") != here:
            found.append(f"it was built on {key.get('os')}, and this is {here}")
        if manifest is not None:
            found += _source_differences(key, artifact, manifest)
    if not found:
        return None
    way_out = rebuild(artifact, library, compute_capability, targets)
    return EngineMismatchError(f"{artifact.file} may not load here: {'; '.join(found)}. {way_out}")


def rebuild(artifact: Artifact, library: str, capability: str | None = None, targets: tuple[str, ...] = ()) -> str:
    """The sentence that tells how to make an engine that fits a GPU of this capability."""
    if targets and capability is not None and capability not in targets:
        return f"{library} cannot build for {capability}: take --engine tensorrt, or run the ONNX files"
    flags = _flags(artifact.engine or {})
    words = [f"coda build BUNDLE --engine {library}"]
    if targets and capability is not None:
        words.append(f"--target {capability}")
    if artifact.part != "quantizer":
        words.append(f"--precision {artifact.precision}")
    if artifact.batch is not None:
        words.append(f"--batch {','.join(map(str, artifact.batch))}")
    if flags.get("hardware_compatible", "none") != "none":
        words.append(f"--hardware {flags['hardware_compatible']}")
    if flags.get("version_compatible"):
        words.append("--version-compatible")
    return f"Build it on this machine: {' '.join(words)}"


def _flags(key: Mapping[str, Any]) -> Mapping[str, Any]:
    found = key.get("flags")
    return found if isinstance(found, Mapping) else {}


def _version_fits(key: Mapping[str, Any], version: str) -> bool:
    built = key.get("library_version")
    if built == version:
        return True
    if not isinstance(built, str) or key.get("library") != "tensorrt" or not _flags(key).get("version_compatible"):
        return False
    # A version-compatible engine runs on the version that built it and on later ones of the same major version.
    return _numbers(built)[:1] == _numbers(version)[:1] and _numbers(built) <= _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(piece) for piece in version.split(".") if piece.isdecimal())


def _gpu_differences(key: Mapping[str, Any], capability: str | None, gpu: str | None) -> list[str]:
    targets = key.get("targets")
    if not isinstance(targets, list) or not targets:
        return ["the manifest does not say which GPUs it was built for"]
    if capability is None:
        return []
    hardware = _flags(key).get("hardware_compatible", "none")
    if hardware == "ampere-plus":
        return [] if _capability(capability) >= 80 else [f"it needs an Ampere GPU or a later one, this is {capability}"]
    if capability not in targets:
        return [f"it was built for {', '.join(map(str, targets))}, and this GPU is {capability}"]
    built_on = key.get("gpu")
    tuned = key.get("library") == "tensorrt" and hardware == "none"
    if tuned and gpu is not None and built_on != gpu:
        return [f"it was tuned on {built_on or 'an unknown GPU'}, and this is {gpu}"]
    return []


def _capability(name: str) -> int:
    digits = name.removeprefix("sm")
    return int(digits) if digits.isdecimal() else 0


def _source_differences(key: Mapping[str, Any], artifact: Artifact, manifest: Manifest) -> list[str]:
    source = key.get("onnx")
    made_of = source.get("sha256") if isinstance(source, Mapping) else None
    files = manifest.find(artifact.part, format="onnx", precision=artifact.precision)
    if not files:
        return [f"the bundle has no ONNX {artifact.part} in {artifact.precision} to compare it with"]
    if made_of not in [file.sha256 for file in files]:
        return [f"it was built from another {files[0].file} ({str(made_of)[:12]}, here {files[0].sha256[:12]})"]
    return []
