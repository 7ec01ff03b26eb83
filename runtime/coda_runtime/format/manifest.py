"""manifest.json: what a bundle holds, read strictly where a mistake would give wrong tokens.

Required keys are checked by name and type. Unknown keys are kept in `extra` and written back, so that a bundle
made by hand or by a later minor version loads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import FormatVersionError
from ..io.counts import count
from ..io.json_fields import (
    Fields,
    describe,
    fail,
    is_int,
    is_list,
    is_object,
    is_object_or_null,
    is_size,
    is_string_or_null,
    parse_json,
)
from .parity import Measured, parity_records
from .parts import PARTS, has_precisions
from .precision import FP32
from .profiles import MAX_PROFILES, Batch
from .spec import Spec

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
CHECKSUMS_NAME = "SHA256SUMS"
MAX_BYTES = 16 << 20
"""manifest.json and SHA256SUMS are not read where they are larger; those of an export have some kilobytes."""

# What a manifest says is multiplied and allocated before a graph could contradict it, so each number has a limit, far
# over any bundle's.
_MAX_BATCH, _MAX_ARTIFACTS, _MAX_DEPTH = 65_536, 4096, 64
_MAX_VALUES = 100 * _MAX_ARTIFACTS  # each takes tens of bytes and a microsecond, however short its text
_MAX_FILE = 8 << 30
_MAX_FILE_OF = {"onnx": (2 << 30) - 1, "npy": 2 << 30, "npz": 2 << 30, "ptx": 256 << 20}
"""Bytes of a file by its format, which would be hashed and read before it could contradict: of ONNX, protobuf's own."""
_NPY_HEADER = 64 << 10

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$", re.IGNORECASE)
"""Names that are devices on Windows, with any suffix."""


@dataclass(frozen=True)
class Artifact:
    """One file of a bundle: a graph, an engine or the value table.

    `file` is relative to the bundle, with forward slashes. `batch` is (min, opt, max) for an engine of one batch
    profile, and `several` the profiles of one that has more, in the engine's order; both say nothing where any batch
    goes, and `profiles` has whichever there is. `engine` says what decides whether an engine may load here. `parity`
    holds the measured numbers.
    """

    part: str
    format: str
    precision: str
    file: str
    sha256: str
    bytes: int
    batch: Batch | None = None
    engine: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    several: tuple[Batch, ...] = ()

    @property
    def profiles(self) -> tuple[Batch, ...]:
        """All batch profiles; empty where any batch goes."""
        return self.several or (() if self.batch is None else (self.batch,))

    def with_profiles(self, profiles: Sequence[Batch]) -> Artifact:
        """Return the artifact with these batch profiles, one or more."""
        if len(profiles) == 1:
            return replace(self, batch=profiles[0], several=())
        return replace(self, batch=None, several=tuple(profiles))

    @property
    def is_measured(self) -> bool:
        """Whether it ran somewhere, and was compared with the tokenizer then."""
        return any(isinstance(record, Measured) for record in parity_records(self.parity).values())

    @classmethod
    def from_json(cls, data: object, where: str = "artifacts[0]") -> Artifact:
        """Read one entry of `artifacts`. Raises ManifestError."""
        fields = Fields(data, where)
        batch = fields.take("batch", _is_batch, f"null or ascending [min, opt, max], from 1 to {_MAX_BATCH}", None)
        several = fields.take("profiles", _is_profiles, f"2 to {MAX_PROFILES} different [min, opt, max]", None)
        if batch is not None and several is not None:
            fail(f"{where} has batch and profiles; expected one of them, profiles where there are several")
        return cls(
            part=fields.string("part"),
            format=fields.string("format"),
            precision=fields.string("precision"),
            file=check_file_name(fields.string("file"), f"{where}.file"),
            sha256=fields.take("sha256", _is_sha256, "64 lower-case hexadecimal digits"),
            bytes=fields.take("bytes", is_size, "a whole number, 0 or more"),
            batch=None if batch is None else (batch[0], batch[1], batch[2]),
            engine=fields.take("engine", is_object_or_null, "an object or null", None),
            parity=fields.take("parity", is_object_or_null, "an object or null", None) or {},
            extra=fields.rest(),
            several=tuple((low, best, high) for low, best, high in several or ()),
        )

    def to_json(self) -> dict[str, Any]:
        """Return one entry of `artifacts`; `batch`, `profiles` and `engine` are left out where they say nothing.

        An engine of several profiles has no `batch`: readers that know of one profile only then find it incompatible
        before they load it, and run the ONNX file, where one profile of several would mislead them.
        """
        out: dict[str, Any] = {
            name: getattr(self, name) for name in ("part", "format", "precision", "file", "sha256", "bytes")
        }
        if self.batch is not None:
            out["batch"] = list(self.batch)
        if self.several:
            out["profiles"] = [list(profile) for profile in self.several]
        if self.engine is not None:
            out["engine"] = dict(self.engine)
        return {**out, "parity": dict(self.parity), **self.extra}


@dataclass(frozen=True)
class Manifest:
    """All of manifest.json. `checksums` names the SHA256SUMS file of a sealed bundle, None in one made by hand."""

    spec: Spec
    artifacts: tuple[Artifact, ...]
    default_precision: str = FP32
    provenance: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    checksums: str | None = None
    format_version: int = FORMAT_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> Manifest:
        """Read a parsed manifest.json. Raises ManifestError, FormatVersionError."""
        fields = Fields(data, "")
        # The version comes first: a newer format may have changed every other key.
        version = fields.take("format_version", is_int, "a whole number")
        if version > FORMAT_VERSION:
            raise FormatVersionError(
                f"{MANIFEST_NAME} has format version {version}, and this coda-runtime reads up to {FORMAT_VERSION}: "
                "it was made by a newer coda: upgrade coda-runtime"
            )
        if version < 1:
            fail(f"format_version is {version}, expected {FORMAT_VERSION}")
        entries = fields.take("artifacts", is_list, "a list of objects")
        if len(entries) > _MAX_ARTIFACTS:
            fail(f"artifacts lists {count(len(entries), 'file')}, expected {_MAX_ARTIFACTS} at most")
        manifest = cls(
            spec=Spec.from_json(fields.take("spec", is_object, "an object")),
            artifacts=tuple(Artifact.from_json(entry, f"artifacts[{i}]") for i, entry in enumerate(entries)),
            default_precision=fields.string("default_precision"),
            provenance=fields.take("provenance", is_object_or_null, "an object", None) or {},
            license=fields.take("license", is_string_or_null, "a string or null", None),
            checksums=fields.take("checksums", _is_checksums, f'"{CHECKSUMS_NAME}" or null', None),
            format_version=version,
            extra=fields.rest(),
        )
        manifest._check_artifacts()
        return manifest

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """Read the text of manifest.json. Raises ManifestError, FormatVersionError."""
        if len(text) > MAX_BYTES:
            fail(f"it has {count(len(text), 'byte')}, expected {MAX_BYTES:,} at most")
        raw = text if isinstance(text, bytes) else text.encode(errors="replace")
        values = sum(map(raw.count, (b",", b":", b"[", b"{")))
        if values > _MAX_VALUES:
            fail(f"it has about {values} keys and values, expected {_MAX_VALUES} at most")
        try:
            data = parse_json(text, _MAX_DEPTH)
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            fail(f"it is not valid JSON ({error})")
        return cls.from_json(data)

    def to_json(self) -> dict[str, Any]:
        """Return the object to write as manifest.json."""
        out: dict[str, Any] = {"format_version": self.format_version, "spec": self.spec.to_json()}
        out["provenance"] = dict(self.provenance)
        out["default_precision"] = self.default_precision
        out["license"] = self.license
        if self.checksums is not None:
            out["checksums"] = self.checksums
        out.update(self.extra)
        out["artifacts"] = [artifact.to_json() for artifact in self.artifacts]
        return out

    def dump(self) -> bytes:
        """Return the bytes of manifest.json: indented, in a fixed order.

        Raises ManifestError for what JSON cannot hold.
        """
        try:
            text = json.dumps(self.to_json(), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            fail(f"it cannot be written as JSON ({error}); numbers must be finite, identical images are null")
        return text.encode() + b"\n"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that the decoder, or else the encoder, comes in; the default first."""
        found = {a.precision for a in self.artifacts if has_precisions(a.part)}
        return tuple(sorted(found, key=lambda name: (name != self.default_precision, name)))

    def find(self, part: str, *, format: str | None = None, precision: str | None = None) -> list[Artifact]:
        """Return the artifacts of a part, in the manifest's order, of one format and precision where given."""
        return [
            artifact
            for artifact in self.artifacts
            if artifact.part == part
            and (format is None or artifact.format == format)
            and (precision is None or artifact.precision == precision)
        ]

    def _check_artifacts(self) -> None:
        seen: dict[object, int] = {}
        table_bytes = 4 * self.spec.vocab_size * self.spec.latent_channels + _NPY_HEADER
        for i, artifact in enumerate(self.artifacts):
            most = _MAX_FILE_OF.get(artifact.format, _MAX_FILE)
            if artifact.part == "codebook" and artifact.format == "npy":
                most = min(most, table_bytes)
            if artifact.bytes > most:
                fail(f"artifacts[{i}].bytes is {artifact.bytes}, expected {most} at most for {artifact.file}")
            # Engines for several GPUs share part, format and precision; what they were built for tells them apart.
            engine = json.dumps(artifact.engine, sort_keys=True) if artifact.engine else ""
            variant = (artifact.part, artifact.format, artifact.precision, artifact.profiles, engine)
            for key in (variant, artifact.file.casefold()):
                if key in seen:
                    fail(
                        f"artifacts[{seen[key]}] and artifacts[{i}] are the same "
                        f"({artifact.part}, {artifact.format}, {artifact.precision}, {artifact.file})"
                    )
            seen[variant] = seen[artifact.file.casefold()] = i
        missing = [part for part in PARTS if not self.find(part)]
        if missing:
            fail(f"artifacts has no {' and no '.join(missing)}; a bundle needs {', '.join(PARTS)}")
        if self.default_precision not in self.precisions:
            fail(f"default_precision is {self.default_precision!r}, but the artifacts are {', '.join(self.precisions)}")


def check_file_name(name: str, where: str = "file") -> str:
    """Return `name` if it can only mean a file inside the bundle, on every system. Raises ManifestError."""
    components = name.split("/")
    bad = (
        len(name) > 1024
        or re.search(r'[\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', name) is not None
        or any(
            component != component.strip() or component.endswith(".") or _RESERVED.match(component)
            for component in components
        )
    )
    if bad or "" in components:
        fail(
            f"{where} is {describe(name)}: it must name a file inside the bundle, relative, with forward slashes and "
            "no '..', and no system's reserved name"
        )
    if any(
        component.startswith(".") for component in components
    ):  # .git/config would run a command in who looks around there
        fail(f"{where} is {describe(name)}: it is hidden; expected a name that does not begin with a dot")
    if name.casefold() in (MANIFEST_NAME.casefold(), CHECKSUMS_NAME.casefold()):
        fail(f"{where} is {name!r}, which is the name of the bundle's own list")
    return name


def _is_checksums(value: object) -> bool:
    return value is None or value == CHECKSUMS_NAME


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_batch(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, list) or len(value) != 3 or not all(map(is_int, value)):
        return False
    return bool(0 < value[0] <= value[1] <= value[2] <= _MAX_BATCH)


def _is_profiles(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_PROFILES:
        return False
    are_profiles = all(profile is not None and _is_batch(profile) for profile in value)
    return are_profiles and len(set(map(tuple, value))) == len(value)
