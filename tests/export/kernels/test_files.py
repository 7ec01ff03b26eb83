"""The files that a bundle gets, read back by the runtime as it reads a bundle's; and, on a GPU, run."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import numpy as np
import pytest

from coda_export.folding.modules import FoldedQuantizer
from coda_export.kernels import compile_quantizer, write_kernels, write_search
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.ptx import KernelSet, SearchTables, make_plan
from coda_runtime.backends.ptx.backend import PtxBackend, mismatch, read_tables
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.format.bundle import Bundle, describe_file
from coda_runtime.format.manifest import Artifact, Manifest
from tests.export.kernels.cases import golden_quantizer, make_spec, random_latent, random_quantizer
from tests.golden import Golden


def write(folder: Path, quantizer: FoldedQuantizer) -> tuple[Artifact, Manifest]:
    search = write_search(folder, quantizer.search)
    kernels = write_kernels(folder, quantizer.search, quantizer.spec)
    np.save(folder / "codebook.fp32.npy", quantizer.search.values.numpy())
    digest = describe_file(folder, "codebook.fp32.npy")
    codebook = Artifact("codebook", "npy", "fp32", "codebook.fp32.npy", *digest)
    return kernels, Manifest(quantizer.spec, (search, kernels, codebook))


@pytest.fixture(scope="module")
def compiled() -> tuple[bytes, KernelSet]:
    """The search at FLUX's sizes."""
    pytest.importorskip("triton")
    spec = make_spec(65536, (32,), 16)
    return compile_quantizer(spec, SearchTables(np.zeros((65536, 17), np.float32)))["sm80"]


def test_the_runtime_reads_them(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    quantizer = random_quantizer(70, (1, 2), norm="layer")
    artifact, manifest = write(tmp_path, quantizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codebook.fp32.npy", "quantizer.fp32.sm80.ptx", "search.fp32.npz",
    ]  # fmt: skip
    kernels = KernelSet.from_json(artifact.engine)
    bundle = Bundle(tmp_path, manifest, b"")
    tables, arrays = read_tables(bundle, artifact, kernels)
    plan = make_plan(kernels, quantizer.spec, 3, eps=tables.eps)
    named = {argument for launch in plan.launches for argument in launch.arguments if isinstance(argument, str)}
    assert named <= set(arrays) | set(plan.buffers)
    assert {launch.kernel.entry for launch in plan.launches} <= set(kernels.modules(bundle.path(artifact).read_bytes()))
    assert mismatch(artifact.file, kernels, "sm90", (12, 2)) is None
    latent = random_latent(quantizer, 2)
    reference = NumpyQuantizer(quantizer.spec, tables, quantizer.search.values.numpy())
    assert reference.ids(latent).shape == (2, 5)


@pytest.mark.parametrize("gpu", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_later_gpus_take_the_same_ptx(compiled: tuple[bytes, KernelSet], gpu: str, tmp_path: Path) -> None:
    """As a driver does when it loads PTX of an older GPU: the assembler takes it, and finds registers enough."""
    ptx, kernels = compiled
    tool = importlib.import_module("triton").knobs.nvidia
    assembler = tool.ptxas if gpu == "sm_80" else tool.ptxas_blackwell
    for kernel in kernels.of("search"):
        (tmp_path / "kernel.ptx").write_bytes(kernels.modules(ptx)[kernel.entry])
        command = [assembler.path, "-v", f"-arch={gpu}", "kernel.ptx", "-o", "kernel.cubin"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr


@pytest.mark.gpu
def test_golden_ids_on_a_gpu(golden: Golden, tmp_path: Path) -> None:
    quantizer = golden_quantizer(golden)
    artifact, manifest = write(tmp_path, quantizer)
    bundle = Bundle(tmp_path, manifest, b"")
    session = PtxBackend().load(bundle, artifact, LoadOptions("cuda"))
    tables, _ = read_tables(bundle, artifact, KernelSet.from_json(artifact.engine))
    reference = NumpyQuantizer(quantizer.spec, tables, quantizer.search.values.numpy())
    for batch in (1, 3, 64):
        latent = np.resize(golden.latent, (batch, *golden.latent.shape[1:]))
        # Kernel by kernel, recorded, and played again.
        runs = [session.run(latent) for _ in range(3)]
        np.testing.assert_array_equal(runs[1], runs[0])
        np.testing.assert_array_equal(runs[2], runs[0])
        np.testing.assert_array_equal(session.run_on_device(latent).numpy(), runs[0])
        assert (reference.step(latent, runs[0]) == runs[0]).mean() >= 0.999
    assert set(session.graphs.values()) == {"recorded"}
    session.close()
