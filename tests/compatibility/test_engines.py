"""A bundle with engines: each says what it was built for, and what may not load is skipped with the reason.

The plans themselves are stubs: TensorRT's own format is TensorRT's to keep.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import coda_runtime
from coda_runtime.backends.ptx import KernelSet, make_plan
from coda_runtime.backends.ptx.backend import mismatch, read_tables
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.engine_key import incompatibility
from coda_runtime.format.manifest import Artifact
from tests.compatibility.versions import expected, is_of_release, readable
from tests.deploy.cli.command import coda

MACHINE = {"compute_capability": "sm89", "gpu": "NVIDIA L4", "os": "linux-x86_64"}


@pytest.fixture
def bundle(written: Path) -> Bundle:
    return Bundle.open(written / "engines")


def engines(bundle: Bundle, library: str) -> list[Artifact]:
    return [artifact for artifact in bundle.manifest.artifacts if artifact.format == library]


def test_it_is_whole(written: Path, bundle: Bundle) -> None:
    assert coda("verify", bundle.folder).exit_code == 0
    shown = coda("inspect", bundle.folder)
    assert shown.exit_code == 0, shown.output
    found = {library: len(engines(bundle, library)) for library in ("tensorrt", "tensorrt-rtx", "ptx")}
    # Engines of several profiles came after 0.1.
    assert found == {"tensorrt": 6 if is_of_release(written, "0.1") else 9, "tensorrt-rtx": 3, "ptx": 1}
    for library in found:
        for artifact in engines(bundle, library):
            assert artifact.file in shown.stdout


def test_without_a_gpu_the_graphs_run(written: Path, bundle: Bundle) -> None:
    with coda_runtime.load(bundle.folder, device="cpu", threads=1) as tok:
        assert (tok.encode(readable(written)) == expected(written)["ids"]).all()
        assert {artifact.format for artifact in tok.artifacts} == {"onnx"}


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_who_may_load_an_engine(bundle: Bundle, library: str) -> None:
    found = engines(bundle, library)
    assert found
    for artifact in found:
        key = artifact.engine or {}
        several = ((1, 1, 1), (2, 3, 4)) if "two-profiles" in artifact.file else ()
        assert (artifact.batch, artifact.profiles) == (None if several else (1, 2, 4), several or ((1, 2, 4),))

        def rejected(
            artifact: Artifact = artifact, version: str = str(key["library_version"]), **machine: str
        ) -> str | None:
            about = {**MACHINE, **machine}
            problem = incompatibility(artifact, bundle.manifest, library=library, library_version=version, **about)  # type: ignore[arg-type]
            return None if problem is None else str(problem)

        portable = key["flags"]["version_compatible"]
        assert rejected() is None
        assert (rejected(version="11.99.0") is None) == portable
        assert f"built by version {key['library_version']}" in str(rejected(version="10.0.0"))
        assert (rejected(compute_capability="sm120") is None) == portable
        assert "sm75" in str(rejected(compute_capability="sm75"))
        assert (rejected(os="windows-x86_64") is None) == (library == "tensorrt-rtx")
        assert (rejected(gpu="NVIDIA L40S") is None) == (portable or library == "tensorrt-rtx")


def test_kernels_are_read_and_planned(bundle: Bundle) -> None:
    (artifact,) = engines(bundle, "ptx")
    kernels, path = KernelSet.from_json(artifact.engine), bundle.path(artifact)
    kernels.check(bundle.spec)
    tables, arrays = read_tables(bundle, artifact, kernels)
    plan = make_plan(kernels, bundle.spec, 3, eps=tables.eps)
    named = {argument for launch in plan.launches for argument in launch.arguments if isinstance(argument, str)}
    assert named <= set(arrays) | set(plan.buffers)
    assert {launch.kernel.entry for launch in plan.launches} <= set(kernels.modules(path.read_bytes()))
    assert mismatch(artifact.file, kernels, "sm89", (13, 0)) is None
    assert mismatch(artifact.file, kernels, "sm75", (13, 0)) is not None
