"""TensorRT itself, which needs a GPU to build. tests/tensorrt_api holds the builder to its bindings without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from coda_runtime import load
from coda_runtime.build.bundle import EngineRequest, add_engines
from coda_runtime.build.options import BuildOptions


@pytest.mark.gpu
def test_tensorrt_builds_and_measures(sealed: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    out = tmp_path / "bundle"
    add_engines(sealed, EngineRequest("tensorrt", BuildOptions((1, 2, 4))), out=out)
    with load(out, backend="tensorrt") as tok:
        assert {artifact.format for artifact in tok.artifacts} == {"tensorrt"}
