"""The TensorRT-RTX library, whose builder needs no GPU, and the engines it makes of the tiny bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX's builder is not installed")

from coda_runtime.backends.tensorrt.library import EngineLibrary, find_library
from coda_runtime.build.bundle import EngineRequest, add_engines
from coda_runtime.build.options import BuildOptions

TARGETS = ("sm86", "sm89", "sm120")


@pytest.fixture(scope="session")
def rtx() -> EngineLibrary:
    return find_library("tensorrt-rtx")


@pytest.fixture(scope="session")
def with_engines(sealed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with an engine for each part; not to be changed."""
    out = tmp_path_factory.mktemp("engines") / "bundle"
    add_engines(sealed, EngineRequest("tensorrt-rtx", BuildOptions((1, 2, 4), TARGETS)), out=out)
    return out
