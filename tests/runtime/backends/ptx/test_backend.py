"""The backend of the quantizer's kernels: what it loads, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.ptx import make_plan
from coda_runtime.backends.ptx.backend import PtxBackend, mismatch, read_tables, typed
from coda_runtime.errors import ArtifactError, DeviceError, InputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Manifest
from tests.runtime.backends.host_kernels import kernel_set, with_ptx
from tests.runtime.backends.ptx.small import SPEC, TABLES, VALUES, artifact, bundle_of


def test_parameters_are_typed_and_followed_by_null_pointers() -> None:
    launch = make_plan(kernel_set(SPEC, 32), SPEC, 1, eps=0.5).launches[1]
    values = typed(launch, range(12))
    assert [type(value) for value in values] == [int] * 6 + [np.float32] + [int] * 2 + [np.int32] * 3 + [int] * 2
    assert values[-2:] == [0, 0]


@pytest.mark.parametrize(
    ("targets", "isa", "capability", "driver", "words"),
    [
        (("sm80",), "8.0", "sm80", (12, 0), None),
        (("sm80",), "8.0", "sm120", (13, 1), None),
        (("sm80", "sm89"), "8.0", "sm86", (12, 4), None),
        (("sm90",), "8.0", "sm90", (12, 4), None),
        (("sm80",), "8.0", "sm75", (12, 4), "this GPU is sm75"),
        (("sm90",), "8.0", "sm100", (12, 8), "this GPU is sm100"),
        (("sm80",), "8.0", "sm80", (11, 8), "CUDA 12.0 or newer"),
        (("sm120",), "8.7", "sm120", (12, 7), "CUDA 12.8 or newer"),
        (("sm80",), "99.9", "sm80", (13, 1), "another PTX version"),
    ],
)
def test_which_gpus_and_drivers_run_them(
    targets: tuple[str, ...], isa: str, capability: str, driver: tuple[int, ...], words: str | None
) -> None:
    kernels = dataclasses.replace(kernel_set(SPEC, 32), targets=targets, ptx_isa=isa)
    found = mismatch("q.ptx", kernels, capability, driver)
    assert (found is None) == (words is None)
    assert words is None or words in str(found)


def test_it_is_a_backend_that_says_no_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("cuda.core")
    backend, kernels = PtxBackend(), artifact("quantizer", "ptx", "q.ptx", kernel_set(SPEC, 32).to_json())
    bundle = Bundle(tmp_path, Manifest(SPEC, (kernels,)), b"")
    assert backend.missing() is None
    assert isinstance(backend.check(bundle, kernels, LoadOptions(device="cpu")), DeviceError)
    assert isinstance(backend.check(bundle, kernels, LoadOptions(providers=["X"])), InputError)
    with pytest.raises(DeviceError, match="runs on an NVIDIA GPU only"):
        backend.load(bundle, kernels, LoadOptions(device="cpu"))


def test_the_tables_come_from_the_bundle(tmp_path: Path) -> None:
    kernels, ptx = with_ptx(kernel_set(SPEC, 32))
    bundle, made = bundle_of(tmp_path, kernels, ptx)
    tables, arrays = read_tables(bundle, made, kernels)
    np.testing.assert_array_equal(tables.table, TABLES.table)
    np.testing.assert_array_equal(arrays["values"][:, :3], VALUES)
    without = Manifest(SPEC, tuple(part for part in bundle.manifest.artifacts if part.part != "search"))
    with pytest.raises(ArtifactError, match="no search table"):
        read_tables(Bundle(tmp_path, without, b""), made, kernels)
