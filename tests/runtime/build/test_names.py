"""TensorRT cannot be installed here: every name the builder uses is looked for in its bindings' library instead."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import itertools
from pathlib import Path

import pytest

from coda_runtime.backends.tensorrt.library import EngineLibrary
from coda_runtime.build import builder, log, memory
from coda_runtime.build.options import HARDWARE

# Set only where targets are given, which only TensorRT-RTX has.
RTX_ONLY = {"num_compute_capabilities", "set_compute_capability", "ComputeCapability"}
# What the builder calls the library's objects.
ROOTS = {"trt", "builder", "network", "parser", "config", "profile", "tensor", "layer", "error"}


def used() -> set[str]:
    names = set(HARDWARE.values())
    trees = [ast.parse(Path(module.__file__).read_text(encoding="utf-8")) for module in (builder, log, memory)]
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        chain = []
        while isinstance(node, ast.Attribute):
            chain.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in ROOTS:
            names.update(chain)
    return names


def binary(package: str) -> bytes:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    return b"\n".join(file.read_bytes() for file in (*folder.glob("*.so"), *folder.glob("*.pyd")))


def test_the_test_sees_what_is_used() -> None:
    assert {"build_serialized_network", "STRONGLY_TYPED", "AMPERE_PLUS", "set_timing_cache", "node_name"} <= used()
    assert used() >= RTX_ONLY


def test_every_name_is_tensorrt_rtx_s(rtx: EngineLibrary) -> None:
    trt = rtx.module
    objects = (
        *(trt, trt.Builder, trt.INetworkDefinition, trt.OnnxParser, trt.IBuilderConfig, trt.IOptimizationProfile),
        *(trt.ITensor, trt.ILayer, trt.ParserError, trt.ITimingCache, trt.ILogger, trt.ILogger.Severity),
        *(trt.BuilderFlag, trt.ProfilingVerbosity, trt.MemoryPoolType, trt.NetworkDefinitionCreationFlag),
        *(trt.HardwareCompatibilityLevel, trt.LayerType, trt.DataType),
    )
    assert used() - {name for thing in objects for name in dir(thing)} == set()


def test_every_name_is_tensorrt_s() -> None:
    ours, theirs = binary("tensorrt_rtx_bindings"), binary("tensorrt_bindings")
    # A short name may be part of the code and no string: then it says nothing that RTX's library has it no more.
    visible = {name for name in used() - RTX_ONLY if name.encode() in ours}
    assert len(visible) > 25
    assert sorted(name for name in visible if name.encode() not in theirs) == []


def test_the_bindings_are_those_of_a_strongly_typed_tensorrt() -> None:
    version = importlib.metadata.version("tensorrt-cu12-bindings")
    assert int(version.partition(".")[0]) >= 11


@pytest.mark.gpu
def test_tensorrt_builds_and_measures(sealed: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    from coda_runtime import load
    from coda_runtime.build.bundle import EngineRequest, add_engines
    from coda_runtime.build.options import BuildOptions

    out = tmp_path / "bundle"
    add_engines(sealed, EngineRequest("tensorrt", BuildOptions((1, 2, 4))), out=out)
    with load(out, backend="tensorrt") as tok:
        assert {artifact.format for artifact in tok.artifacts} == {"tensorrt"}
