"""Ahead-of-time compilation of the kernels to PTX, which needs Triton and no GPU.

One PTX is enough. That of sm80 runs on every later GPU, whose driver compiles it when it is loaded; the kernels use
its tensor cores and nothing else that is newer, and ask for the PTX language of CUDA 12.0, so that drivers from
525.60 on know it. Triton writes sm90, sm100 and sm120 as sm_90a, sm_100a and sm_120a, which run on no other GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import tempfile
from collections.abc import Sequence
from typing import Any

from coda_export.kernels.blocks import Blocks, Specialisation, specialise
from coda_runtime.backends.ptx import Kernel, KernelSet, SearchTables
from coda_runtime.backends.ptx.kernel_set import SHARED_LIMIT, SIZES, WARP
from coda_runtime.errors import BuildError, InputError, MissingDependencyError
from coda_runtime.format.spec import Spec
from coda_runtime.io.counts import count
from coda_runtime.requirements import pip_install

PTX_ISA = {"sm80": "8.0", "sm86": "8.0", "sm89": "8.0", "sm90": "8.0", "sm100": "8.6", "sm120": "8.7"}
"""The targets there are, each with the oldest PTX language used for it (8.0 is CUDA 12.0, 8.6 and 8.7 CUDA 12.8)."""
DEFAULT_TARGET = "sm80"

_TYPES: dict[str, dict[str, str]] = {
    "pool": {"residual": "*fp32", "rows": "*fp32", "tokens": "i32", "side": "i32"},
    "search": {
        **dict.fromkeys(("rows", "table", "bias", "slope", "spread", "offset"), "*fp32"),
        **{"eps": "fp32", "scores": "*fp32", "codes": "*i32", "tokens": "i32", "splits": "i32", "chunks": "i32"},
    },
    "merge": {
        **{"scores": "*fp32", "codes": "*i32", "values": "*fp32", "ids": "*i32", "grid": "*fp32"},
        **dict.fromkeys(("tokens", "splits", "places", "start"), "i32"),
    },
    "screen": {
        **{"rows": "*fp32", "halves": "*fp16"},
        **dict.fromkeys(("biases", "slopes", "spread", "offset"), "*fp32"),
        **{"eps": "fp32", "scores": "*fp32", "groups": "*i32", "others": "*fp32"},
        **dict.fromkeys(("tokens", "splits", "chunks"), "i32"),
    },
    "settle": {
        **dict.fromkeys(("rows", "table", "bias", "slope", "spread", "offset"), "*fp32"),
        **{"eps": "fp32", "bounds": "*fp32", "scores": "*fp32", "groups": "*i32", "others": "*fp32"},
        **{"values": "*fp32", "ids": "*i32", "grid": "*fp32"},
        **dict.fromkeys(("tokens", "splits", "chunks", "places", "start"), "i32"),
    },
    "subtract": {
        **{"before": "*fp32", "grid": "*fp32", "taps": "*i32", "weights": "*fp32", "after": "*fp32"},
        **{"points": "i32", "side": "i32"},
    },
    "pool_rectangle": {"residual": "*fp32", "rows": "*fp32", **dict.fromkeys(("tokens", "down", "across"), "i32")},
    "subtract_rectangle": {
        **{"before": "*fp32", "grid": "*fp32", "row_taps": "*i32", "row_weights": "*fp32"},
        **{"column_taps": "*i32", "column_weights": "*fp32", "after": "*fp32"},
        **dict.fromkeys(("points", "down", "across"), "i32"),
    },
}
_APPROXIMATE = re.compile(r"\b[a-z][\w.]*\.(?:approx|full|ftz|tf32)\b[\w.]*")
"""An instruction of PTX that is not float32 as IEEE defines it."""
_ALIGNMENT = 16  # bytes, of every buffer and table: what vector loads need


def arguments(function: str) -> tuple[tuple[str, str], ...]:
    """Return a kernel's arguments at a launch, (name, type) in their order."""
    return tuple(_TYPES[function].items())


def query_length(tables: SearchTables) -> int:
    """Return the query's length d where the kernels have to compute its standard deviation, 0 where not."""
    return 0 if tables.spread is None else int(tables.spread.shape[1])


def compile_quantizer(
    spec: Spec, tables: SearchTables, *, targets: Sequence[str] = (DEFAULT_TARGET,), blocks: Blocks | None = None
) -> dict[str, tuple[bytes, KernelSet]]:
    """Compile the quantizer's kernels: for every target its PTX, one module after the other, and what is in it.

    The same input gives the same bytes. `targets` are names of `PTX_ISA`, `blocks` by default `default_blocks`.

    Raises InputError for an unknown target, MissingDependencyError without Triton, BuildError where compiling fails.
    """
    unknown = [target for target in targets if target not in PTX_ISA]
    if unknown or not targets:
        raise InputError(f"targets are {', '.join(targets) or 'none'}; expected some of {', '.join(PTX_ISA)}")
    triton = import_triton()
    specialisations = specialise(spec, query_length(tables), blocks)
    return {target: _compile_target(triton, specialisations, target) for target in dict.fromkeys(targets)}


def _compile_target(triton: Any, specialisations: Sequence[Specialisation], target: str) -> tuple[bytes, KernelSet]:
    ptx, kernels = b"", []
    for specialisation in specialisations:
        module, kernel = _compile(triton, specialisation, target, len(ptx))
        ptx += module
        kernels.append(kernel)
    return ptx, KernelSet(tuple(kernels), (target,), PTX_ISA[target], triton.__version__)


def _compile(triton: Any, specialisation: Specialisation, target: str, offset: int) -> tuple[bytes, Kernel]:
    source = importlib.import_module("coda_export.kernels.source")
    function, sizes = getattr(source, specialisation.function), specialisation.sizes
    types = dict(arguments(specialisation.function))
    if function.arg_names != [*types, *SIZES[specialisation.function]]:
        raise BuildError(f"the kernel {specialisation.function} takes {', '.join(function.arg_names)}: reinstall coda")
    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    aligned = {
        (place,): [["tt.divisibility", _ALIGNMENT]]
        for place, name in enumerate(function.arg_names)
        if signature[name].startswith("*")
    }
    options = {
        "num_warps": specialisation.warps,
        "num_stages": specialisation.stages,
        "ptx_version": int(PTX_ISA[target].replace(".", "")),
        "enable_fp_fusion": True,
    }
    knobs = triton.knobs
    try:
        # A cache of its own, and no line numbers: the PTX must not depend on what was compiled before, or on paths.
        with tempfile.TemporaryDirectory() as cache, knobs.cache.scope(), knobs.compilation.scope():
            knobs.cache.dir, knobs.compilation.disable_line_info = cache, True
            compiled = triton.compile(
                triton.compiler.ASTSource(function, signature, dict(sizes), aligned),
                target=triton.backends.compiler.GPUTarget("cuda", int(target.removeprefix("sm")), WARP),
                options=options,
            )
    except Exception as error:  # MLIR's, ptxas's and Triton's own errors have no common base
        raise BuildError(
            f"Triton {triton.__version__} cannot compile {specialisation.function} {sizes} for {target} ({error}); "
            f"install the version that was tested: {pip_install('triton', options='--upgrade')}"
        ) from error
    text, metadata = compiled.asm["ptx"], compiled.metadata
    entry = str(metadata.name)
    parameters = text.count(f"{entry}_param_") - _uses(text, entry)
    scratch = metadata.global_scratch_size or metadata.profile_scratch_size or metadata.num_ctas != 1
    if scratch or metadata.num_warps != specialisation.warps or parameters < len(types):
        raise BuildError(f"Triton {triton.__version__} compiled {entry} to ask for more than a plan gives it")
    if metadata.shared > SHARED_LIMIT:
        raise BuildError(
            f"{entry} takes {count(metadata.shared, 'byte')} of shared memory for a latent of "
            f"{count(sizes['CHANNELS_PADDED'], 'channel')}, and a block has {SHARED_LIMIT:,}: leave the kernels out, "
            "the ONNX quantizer gives the same ids"
        )
    approximate = _APPROXIMATE.search(text)
    if approximate is not None:
        raise BuildError(
            f"Triton {triton.__version__} compiled {entry} to {approximate[0]}, and ids need IEEE float32; install the "
            f"version that was tested: {pip_install('triton', options='--upgrade')}"
        )
    module = text.encode("ascii")
    kernel = Kernel(
        function=specialisation.function,
        entry=entry,
        arguments=tuple(types.items()),
        sizes=dict(sizes),
        warps=specialisation.warps,
        shared=int(metadata.shared),
        hidden=parameters - len(types),
        offset=offset,
        bytes=len(module),
    )
    return module, kernel


def _uses(text: str, entry: str) -> int:
    """Count how often the body names a parameter of `entry`, in brackets."""
    return len(re.findall(rf"\[{re.escape(entry)}_param_", text))


def import_triton() -> Any:
    """Import the module now. Raises MissingDependencyError."""
    if importlib.util.find_spec("triton") is None:
        raise MissingDependencyError("compiling the GPU kernels needs Triton", extra="kernels")
    return importlib.import_module("triton")
