"""Which engine may load where: what it was built of, with and for, and how that differs from what is here.

An engine of another library version, GPU or operating system fails at load at best. One of another ONNX file loads,
and gives the tokens of another tokenizer.
"""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EngineMismatchError
from ..io.json_fields import is_size
from .manifest import Artifact, Manifest
from .parts import has_precisions
from .profiles import batch_options


@dataclass(frozen=True, order=True)
class Capability:
    """A GPU's compute capability, (8, 9) for what a manifest calls "sm89" and NVIDIA 8.9."""

    major: int
    minor: int

    @classmethod
    def parse(cls, name: str) -> Capability | None:
        """Read a name such as "sm89"; None for any other."""
        found = re.fullmatch(r"sm([0-9]{1,2})([0-9])", name)
        return None if found is None else cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """As a manifest names it, "sm89"."""
        return f"sm{self.major}{self.minor}"

    def __str__(self) -> str:
        """As NVIDIA writes it, "8.9"."""
        return f"{self.major}.{self.minor}"


AMPERE = Capability(8, 0)


@dataclass(frozen=True)
class BuildFlags:
    """How an engine was built, as far as its key tells it. `hardware_compatible` says which other GPUs may run it."""

    tf32: bool = False
    workspace_gib: float | None = None
    optimization_level: int | None = None
    hardware_compatible: str = "none"
    version_compatible: bool = False

    @property
    def is_tuned(self) -> bool:
        """Whether it fits the GPU's model that it was built on alone."""
        return self.hardware_compatible == "none"

    @property
    def runs_from_ampere(self) -> bool:
        """Whether it runs on every GPU from Ampere on."""
        return self.hardware_compatible == "ampere-plus"

    @classmethod
    def from_json(cls, data: object) -> BuildFlags:
        """Read a key's `flags`; what is missing or of another type has its default."""
        found = data if isinstance(data, Mapping) else {}
        workspace, level = found.get("workspace_gib"), found.get("optimization_level")
        return cls(
            tf32=found.get("tf32") is True,
            workspace_gib=workspace if isinstance(workspace, int | float) else None,
            optimization_level=level if isinstance(level, int) else None,
            hardware_compatible=_text(found.get("hardware_compatible")) or cls.hardware_compatible,
            version_compatible=found.get("version_compatible") is True,
        )


@dataclass(frozen=True)
class OnnxSource:
    """The ONNX file that an engine was built from."""

    file: str | None
    sha256: str | None


@dataclass(frozen=True)
class EngineKey:
    """The `engine` object of a TensorRT or TensorRT-RTX artifact: all that decides whether it may load.

    `targets` are compute capabilities, as "sm89". `gpu` is the model it was tuned on, None when it was built without
    one. `driver` is the NVIDIA driver's version, `layers` counts {layer type: {data type: how many}}, and
    `scratch_bytes` is the device memory of one context of each batch profile: they are recorded for whoever reads them,
    and not compared. What a manifest does not say is None.
    """

    library: str | None
    library_version: str | None
    targets: tuple[str, ...]
    gpu: str | None
    os: str | None
    driver: str | None
    onnx: OnnxSource | None
    flags: BuildFlags
    layers: Mapping[str, Mapping[str, int]] | None = None
    scratch_bytes: tuple[int, ...] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> EngineKey:
        """Read an artifact's `engine`. A manifest may be made by hand: what is of another type counts as not said."""
        found = data or {}
        targets, onnx, layers = found.get("targets"), found.get("onnx"), found.get("layers")
        scratch = found.get("scratch_bytes")
        return cls(
            library=_text(found.get("library")),
            library_version=_text(found.get("library_version")),
            targets=tuple(map(str, targets)) if isinstance(targets, list) else (),
            gpu=_text(found.get("gpu")),
            os=_text(found.get("os")),
            driver=_text(found.get("driver")),
            onnx=OnnxSource(_text(onnx.get("file")), _text(onnx.get("sha256"))) if isinstance(onnx, Mapping) else None,
            flags=BuildFlags.from_json(found.get("flags")),
            layers=layers if isinstance(layers, Mapping) else None,
            scratch_bytes=tuple(scratch) if isinstance(scratch, list) and all(map(is_size, scratch)) else None,
        )

    @classmethod
    def made_here(
        cls,
        *,
        library: str,
        library_version: str,
        targets: tuple[str, ...],
        onnx: Artifact,
        flags: BuildFlags,
        gpu: str | None,
        driver: str | None,
        layers: Mapping[str, Mapping[str, int]] | None = None,
        scratch_bytes: tuple[int, ...] | None = None,
    ) -> EngineKey:
        """Return the key of an engine that this machine has built of `onnx`."""
        source = OnnxSource(onnx.file, onnx.sha256)
        return cls(library, library_version, targets, gpu, system(), driver, source, flags, layers, scratch_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return the `engine` object of the manifest."""
        out = dataclasses.asdict(self) | {"targets": list(self.targets)}
        if self.layers is None:
            del out["layers"]
        if self.scratch_bytes is None:
            del out["scratch_bytes"]
        else:
            out["scratch_bytes"] = list(self.scratch_bytes)
        return out


def with_scratch(artifact: Artifact, scratch_bytes: Sequence[int]) -> Artifact:
    """Return an engine's artifact with the device memory that a context of each of its batch profiles works in."""
    return dataclasses.replace(artifact, engine={**(artifact.engine or {}), "scratch_bytes": list(scratch_bytes)})


def system() -> str:
    """Return this machine's operating system and processor, such as "linux-x86_64"."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return f"{platform.system().lower()}-{machine}"


def incompatibility(
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
    """Return why an engine may not load here, None where it may.

    `library_version`, `compute_capability` ("sm89"), `gpu` (the model's name) and `os` (this machine's `system()` by
    default) describe this machine; what is None is not compared. `manifest` is compared with the ONNX file that the
    engine was built from. `targets` are those the library can build for ahead of time, for the way out.
    """
    here = os or system()
    found = []
    if not artifact.engine or not artifact.profiles:
        found.append("the manifest does not say what it was built for")
    else:
        key = EngineKey.from_json(artifact.engine)
        if artifact.format != library or key.library != library:
            found.append(f"it was built by {key.library!r}, and this is {library}")
        if not _version_fits(key, library_version):
            found.append(f"it was built by version {key.library_version}, and {library_version} is installed")
        found += _gpu_differences(key, compute_capability, gpu)
        # TensorRT-RTX engines are compiled on the user's machine and cross systems; TensorRT's never do.
        if library == "tensorrt" and key.os != here:
            found.append(f"it was built on {key.os}, and this is {here}")
        if manifest is not None:
            found += _source_differences(key, artifact, manifest)
    if not found:
        return None
    way_out = rebuild(artifact, library, compute_capability, targets)
    return EngineMismatchError(f"{artifact.file} may not load here: {'; '.join(found)}. {way_out}")


def rebuild(artifact: Artifact, library: str, capability: str | None = None, targets: tuple[str, ...] = ()) -> str:
    """Return the sentence that tells how to make an engine that fits a GPU of this capability."""
    if targets and capability is not None and capability not in targets:
        return f"{library} cannot build for {capability}: take --engine tensorrt, or run the ONNX files"
    flags = EngineKey.from_json(artifact.engine).flags
    words = [f"coda build BUNDLE --engine {library}"]
    if targets and capability is not None:
        words.append(f"--target {capability}")
    if has_precisions(artifact.part):
        words.append(f"--precision {artifact.precision}")
    if artifact.profiles:
        words.append(batch_options(artifact.profiles))
    if not flags.is_tuned:
        words.append(f"--hardware {flags.hardware_compatible}")
    if flags.version_compatible:
        words.append("--version-compatible")
    return f"Build it on this machine: {' '.join(words)}"


def _version_fits(key: EngineKey, version: str) -> bool:
    built = key.library_version
    if built == version:
        return True
    if built is None or key.library != "tensorrt" or not key.flags.version_compatible:
        return False
    # A version-compatible engine runs on the version that built it and on later ones of the same major version.
    return version_numbers(built)[:1] == version_numbers(version)[:1] and (
        version_numbers(built) <= version_numbers(version)
    )


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a library's version, to be compared: (10, 13, 3, 9) for "10.13.3.9.post1"."""
    return tuple(int(number) for number in version.split(".") if number.isdecimal())


def _gpu_differences(key: EngineKey, name: str | None, gpu: str | None) -> list[str]:
    if not key.targets:
        return ["the manifest does not say which GPUs it was built for"]
    if name is None:
        return []
    if key.flags.runs_from_ampere:
        capability = Capability.parse(name)
        fits = capability is not None and capability >= AMPERE
        return [] if fits else [f"it needs an Ampere GPU or a later one, this is {name}"]
    if name not in key.targets:
        return [f"it was built for {', '.join(key.targets)}, and this GPU is {name}"]
    tuned = key.library == "tensorrt" and key.flags.is_tuned
    if tuned and gpu is not None and key.gpu != gpu:
        return [f"it was tuned on {key.gpu or 'an unknown GPU'}, and this is {gpu}"]
    return []


def _source_differences(key: EngineKey, artifact: Artifact, manifest: Manifest) -> list[str]:
    made_of = None if key.onnx is None else key.onnx.sha256
    files = manifest.find(artifact.part, format="onnx", precision=artifact.precision)
    if not files:
        return [f"the bundle has no ONNX {artifact.part} in {artifact.precision} to compare it with"]
    if made_of not in [file.sha256 for file in files]:
        return [f"it was built from another {files[0].file} ({str(made_of)[:12]}, here {files[0].sha256[:12]})"]
    return []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
