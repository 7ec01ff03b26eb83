"""The files that a bundle gets, read back by the runtime as it reads a bundle's; and, on a GPU, run."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from coda_export.folding.modules import FoldedQuantizer
from coda_export.kernels import compile_quantizer, write_kernels, write_search
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.ptx import KernelSet, make_plan
from coda_runtime.backends.ptx.backend import PtxBackend, mismatch, read_tables
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.format.bundle import Bundle, describe_file
from coda_runtime.format.manifest import Artifact, Manifest
from tests.export.kernels.cases import SMALL_BLOCKS, golden_quantizer, random_latent, random_quantizer
from tests.golden import Golden
from tests.runtime.backends.ptx.interpreter.plan import run_plan


def write(folder: Path, quantizer: FoldedQuantizer) -> tuple[Artifact, Manifest]:
    search = write_search(folder, quantizer.search)
    kernels = write_kernels(folder, quantizer.search, quantizer.spec)
    np.save(folder / "codebook.fp32.npy", quantizer.search.values.numpy())
    digest = describe_file(folder, "codebook.fp32.npy")
    codebook = Artifact("codebook", "npy", "fp32", "codebook.fp32.npy", *digest)
    return kernels, Manifest(quantizer.spec, (search, kernels, codebook))


def test_the_runtime_reads_and_runs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    # Blocks that compile fast; test_ptx.py runs those that ship.
    small = functools.partial(compile_quantizer, blocks=SMALL_BLOCKS)
    monkeypatch.setattr("coda_export.kernels.files.compile_quantizer", small)
    quantizer = random_quantizer(70, (1, 2), norm="layer")
    artifact, manifest = write(tmp_path, quantizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codebook.fp32.npy", "quantizer.fp32.sm80.ptx", "search.fp32.npz",
    ]  # fmt: skip
    kernels = KernelSet.from_json(artifact.engine)
    bundle = Bundle(tmp_path, manifest, b"")
    tables, arrays = read_tables(bundle, artifact, kernels)
    assert mismatch(artifact.file, kernels, "sm90", (12, 2)) is None
    latent = random_latent(quantizer, 3)
    plan = make_plan(kernels, quantizer.spec, len(latent), eps=tables.eps)
    ids = run_plan(plan, kernels.modules(bundle.read(artifact)), arrays, latent)
    reference = NumpyQuantizer(quantizer.spec, tables, quantizer.search.values.numpy())
    np.testing.assert_array_equal(ids, reference.ids(latent))


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
