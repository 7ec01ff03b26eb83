"""What was compiled: the kernels of one tokenizer's quantizer, as the manifest describes them beside their PTX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from ...errors import ArtifactError
from ...format.engine_key import Capability
from ...format.spec import Spec
from ...io.json_fields import Fields, is_int, is_list, is_object, is_size

_TYPES = ("*fp32", "*fp16", "*i32", "fp32", "i32")
_FUNCTIONS = ("pool", "search", "merge", "screen", "settle", "subtract", "pool_rectangle", "subtract_rectangle")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WARP = 32
"""Threads a warp, on every NVIDIA GPU."""
SHARED_LIMIT = 48 * 1024
"""Bytes of shared memory that a block gets without asking for more, on every NVIDIA GPU."""


@dataclass(frozen=True)
class Kernel:
    """One specialisation of a function of `coda_export.kernels.source`.

    `arguments` are (name, type) in the order of the launch, types "*fp32", "*fp16", "*i32", "fp32", "i32"; `hidden`
    null pointers follow them, which Triton's PTX expects. `sizes` are the constants compiled in. `shared` is dynamic
    shared memory, bytes. `offset` and `bytes` say where the kernel's own PTX module stands in the file.
    """

    function: str
    entry: str
    arguments: tuple[tuple[str, str], ...]
    sizes: Mapping[str, int]
    warps: int
    shared: int = 0
    hidden: int = 0
    offset: int = 0
    bytes: int = 0

    @classmethod
    def from_json(cls, data: object, where: str) -> Kernel:
        """Read one entry of `kernels`. Raises ManifestError."""
        fields = Fields(data, where)
        arguments = fields.take("arguments", _is_arguments, f"a list of [name, one of {', '.join(_TYPES)}]")
        kernel = cls(
            function=fields.take("function", _FUNCTIONS.__contains__, f"one of {', '.join(_FUNCTIONS)}"),
            entry=fields.take("entry", _is_name, "a PTX identifier"),
            arguments=tuple((name, kind) for name, kind in arguments),
            sizes=fields.take("sizes", _is_sizes, "an object of whole numbers, 0 or more"),
            warps=fields.take("warps", lambda value: value in (1, 2, 4, 8, 16, 32), "a power of two up to 32"),
            shared=fields.take("shared", is_size, "a whole number of bytes"),
            hidden=fields.take("hidden", is_size, "a whole number of pointers"),
            offset=fields.take("offset", is_size, "a whole number of bytes"),
            bytes=fields.positive("bytes"),
        )
        missing = [name for name in SIZES[kernel.function] if kernel.sizes.get(name, -1) < (name != "QUERY")]
        if missing:
            _fail(f"the kernel {kernel.entry} lacks the size {missing[0]}")
        return kernel


SIZES: dict[str, tuple[str, ...]] = {
    "pool": ("WINDOW", "BLOCK_TOKENS", "SIZE", "CHANNELS", "CHANNELS_PADDED"),
    "search": ("BLOCK_TOKENS", "BLOCK_CODES", "CODES", "CHANNELS_PADDED", "QUERY", "QUERY_PADDED"),
    "merge": ("SPLITS", "BLOCK_TOKENS", "LENGTH", "CODES", "CHANNELS_PADDED"),
    "screen": (
        "BLOCK_TOKENS", "BLOCK_CODES", "STEP", "GROUPS", "CODES", "CHANNELS_PADDED", "QUERY", "QUERY_PADDED",
    ),
    "settle": (
        "SPLITS", "BLOCK_TOKENS", "STEP", "GROUPS", "LENGTH", "CODES", "CHANNELS_PADDED", "QUERY", "QUERY_PADDED",
    ),
    "subtract": ("BLOCK_POINTS", "SIZE", "CHANNELS", "CHANNELS_PADDED"),
    "pool_rectangle": ("WINDOW", "BLOCK_TOKENS", "HEIGHT", "WIDTH", "CHANNELS", "CHANNELS_PADDED"),
    "subtract_rectangle": ("BLOCK_POINTS", "HEIGHT", "WIDTH", "CHANNELS", "CHANNELS_PADDED"),
}  # fmt: skip
"""The constants of every function, by name. Older bundles have neither screen nor settle."""


@dataclass(frozen=True)
class KernelSet:
    """All kernels of one tokenizer's quantizer: what the artifact's `engine` object holds.

    `targets` are the GPU generations named at compile time, such as ("sm80",), "sm" and digits only; PTX of those
    before sm90 runs on later ones too. `ptx_isa` is the version of the PTX language, which the driver must know.
    """

    kernels: tuple[Kernel, ...]
    targets: tuple[str, ...]
    ptx_isa: str
    library_version: str
    library: str = "triton"
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> KernelSet:
        """Read an artifact's `engine` object. Raises ManifestError, ArtifactError."""
        fields = Fields(data, "engine")
        entries = fields.take("kernels", is_list, "a list of objects")
        kernels = tuple(Kernel.from_json(entry, f"engine.kernels[{i}]") for i, entry in enumerate(entries))
        return cls(
            kernels=kernels,
            targets=tuple(fields.take("targets", _is_targets, 'a list of GPU generations such as "sm80"')),
            ptx_isa=fields.take("ptx_isa", _is_version, 'a version such as "8.0"'),
            library_version=fields.string("library_version"),
            library=fields.string("library"),
            extra=fields.rest(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the artifact's `engine` object."""
        kernels = [
            {**asdict(kernel), "arguments": [list(argument) for argument in kernel.arguments]}
            for kernel in self.kernels
        ]
        known = {"library": self.library, "library_version": self.library_version, "targets": list(self.targets)}
        return {**known, "ptx_isa": self.ptx_isa, "kernels": kernels, **self.extra}

    @property
    def screens(self) -> bool:
        """Whether many tokens are screened by halves and settled; older bundles search them too, in float32."""
        return any(kernel.function == "screen" for kernel in self.kernels)

    def of(self, function: str) -> tuple[Kernel, ...]:
        """Return the specialisations of a function. Raises ArtifactError if there is none."""
        found = tuple(kernel for kernel in self.kernels if kernel.function == function)
        if not found:
            _fail(f"there is no kernel {function!r}")
        return found

    def check(self, spec: Spec) -> None:
        """Raise ArtifactError if the kernels were compiled for another tokenizer than `spec`."""
        expected = {
            **latent_sizes(spec),
            "CHANNELS": spec.latent_channels,
            "LENGTH": spec.num_tokens,
            "CHANNELS_PADDED": padded_channels(spec.latent_channels),
        }
        searches = (*self.of("search"), *self.of("merge"))
        searches += (*self.of("screen"), *self.of("settle")) if self.screens else ()
        codes = {kernel.sizes["CODES"] for kernel in searches}
        if len(codes) != 1 or min(codes) < spec.vocab_size:
            _fail(f"the kernels search tables of {sorted(codes)} codes, and this tokenizer has {spec.vocab_size}")
        queries = {(it.sizes["QUERY"], it.sizes["QUERY_PADDED"]) for it in searches if "QUERY" in it.sizes}
        if len(queries) != 1:
            _fail("the search kernels take queries of different lengths")
        for kernel in self.kernels:
            for name, size in kernel.sizes.items():
                if size != expected.get(name, size):
                    _fail(f"the kernel {kernel.entry} has {name} {size}, and this tokenizer needs {expected[name]}")
        for kernel in searches:
            sizes = kernel.sizes
            if sizes["CODES"] % sizes.get("STEP", sizes.get("BLOCK_CODES", 1)):
                _fail(f"the kernel {kernel.entry} does not divide its codes into whole blocks")

    def modules(self, ptx: bytes) -> dict[str, bytes]:
        """Return the PTX module of every kernel, by entry name, out of the file's bytes. Raises ArtifactError."""
        out = {}
        for kernel in self.kernels:
            module = ptx[kernel.offset : kernel.offset + kernel.bytes]
            if len(module) != kernel.bytes or f".entry {kernel.entry}(".encode() not in module:
                _fail(f"the PTX has no kernel {kernel.entry} at byte {kernel.offset}")
            out[kernel.entry] = module
        return out


def latent_sizes(spec: Spec) -> dict[str, int]:
    """Return the constants by which kernels know the latent: SIZE of squares throughout, or else HEIGHT and WIDTH."""
    height, width = spec.latent_shape
    return {"SIZE": height} if spec.is_square else {"HEIGHT": height, "WIDTH": width}


def padded_channels(channels: int) -> int:
    """Return the channels as the kernels hold them: the next power of two, at least 16."""
    return max(16, 1 << (channels - 1).bit_length())


def _fail(what: str) -> NoReturn:
    raise ArtifactError(f"{what}; export the bundle again")


def _is_arguments(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and _is_name(pair[0]) and pair[1] in _TYPES for pair in value
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_targets(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_target(item) for item in value)


def _is_target(value: object) -> bool:
    return isinstance(value, str) and Capability.parse(value) is not None


def _is_version(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+\.\d+", value) is not None


def _is_sizes(value: Any) -> bool:
    return is_object(value) and all(is_int(size) and size >= 0 for size in value.values())
