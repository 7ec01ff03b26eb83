"""Sessions of the quantizer's kernels on the host's memory; what the backend refuses; the real thing is marked gpu."""

from __future__ import annotations

import dataclasses
import gc
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends.base import LoadOptions, keeps_on_device
from coda_runtime.backends.cuda.array import CudaArray
from coda_runtime.backends.cuda.staging import StagingPool
from coda_runtime.backends.ptx import SearchTables, device_tables, make_plan
from coda_runtime.backends.ptx.backend import PtxBackend, mismatch, read_tables, typed
from coda_runtime.backends.ptx.session import PtxSession
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.errors import ArtifactError, ClosedError, DeviceError, DeviceMemoryError, InputError
from coda_runtime.format.bundle import Bundle, describe_file
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.spec import Spec
from tests.runtime.backends.cuda.host import HostLayer, Producer
from tests.runtime.backends.host_kernels import HostLauncher, kernel_set

SPEC = Spec("test", 32, 8, 3, 29, (1, 2, 4), 21)
RNG = np.random.default_rng(0)
TABLES = SearchTables(RNG.standard_normal((29, 4), np.float32))
NORMED = SearchTables(RNG.standard_normal((29, 5), np.float32), RNG.standard_normal((4, 6), np.float32), 1e-5)
VALUES = RNG.standard_normal((29, 3), np.float32)


def latents(batch: int) -> Any:
    return np.random.default_rng(batch).standard_normal((batch, 3, 4, 4), np.float32)


def session(
    tables: SearchTables = TABLES, max_batch: int = 4, **layer: Any
) -> tuple[PtxSession, HostLayer, HostLauncher]:
    kernels = kernel_set(SPEC, 32, 0 if tables.spread is None else tables.spread.shape[1])
    arrays, host, launcher = device_tables(kernels, SPEC, tables, VALUES), HostLayer(**layer), HostLauncher()
    return PtxSession(kernels, SPEC, arrays, host, launcher, eps=tables.eps, max_batch=max_batch), host, launcher


@pytest.mark.parametrize("tables", [TABLES, NORMED], ids=["plain", "layer norm"])
def test_ids_with_and_without_a_graph(tables: SearchTables) -> None:
    quantizer, (subject, host, launcher) = NumpyQuantizer(SPEC, tables, VALUES), session(tables)
    assert keeps_on_device(subject)
    for repeat in range(3):
        for batch in (1, 3, 4):
            latent = latents(batch) + repeat
            np.testing.assert_array_equal(subject.run(latent), quantizer.ids(latent))
    assert subject.graphs == dict.fromkeys((1, 3, 4), "recorded")
    assert [graph.launches for graph in host.graphs] == [2, 2, 2]
    # Once launched and once recorded, for each of three sizes: three scales of four kernels, less the last subtract.
    assert len(launcher.launched) == 2 * 3 * 11


def test_ids_stay_on_the_gpu_and_outlive_the_session() -> None:
    quantizer, (subject, _, _) = NumpyQuantizer(SPEC, TABLES, VALUES), session()
    kept = [(subject.run_on_device(latents(batch)), latents(batch)) for batch in (1, 2, 2, 2)]
    subject.close()
    for array, latent in kept:
        np.testing.assert_array_equal(array.numpy(), quantizer.ids(latent))
    with pytest.raises(ClosedError, match="load the bundle again"):
        subject.run(latents(1))


def test_an_array_on_the_gpu_is_read_after_it_was_written() -> None:
    (subject, host, _), (other, _, _) = session(), session()
    latent = latents(2)
    with host.active():
        memory = host.allocate(latent.nbytes, stream := host.create_stream())
        host.copy(memory.address, latent.ctypes.data, latent.nbytes, stream)
        array = CudaArray(host, StagingPool(host), memory, latent.shape, latent.dtype, stream.record())
    found = subject.run_on_device(array)
    np.testing.assert_array_equal(found.numpy(), NumpyQuantizer(SPEC, TABLES, VALUES).ids(latent))
    with pytest.raises(DeviceError, match="cuda:1"):
        other.run_on_device(Producer(latent, index=1))  # type: ignore[arg-type] # as much of the protocol as is asked
    with pytest.raises(InputError, match="got int32"):
        other.run_on_device(found)


def test_an_array_is_put_there_and_waited_for() -> None:
    subject, host, _ = session()
    latent = latents(2)
    given = latent.copy()
    put = subject.put(given)
    given[:] = 0
    with host.active():
        assert not put.ready.is_done()
    put.wait()
    with host.active():
        assert put.ready.is_done()
    np.testing.assert_array_equal(put.numpy(), latent)
    np.testing.assert_array_equal(subject.run_on_device(put).numpy(), NumpyQuantizer(SPEC, TABLES, VALUES).ids(latent))
    before = host.live
    del put
    gc.collect()
    assert host.live == before - latent.nbytes
    subject.close()
    with pytest.raises(ClosedError):
        subject.put(latent)


def test_threads_take_turns() -> None:
    quantizer, (subject, _, _) = NumpyQuantizer(SPEC, TABLES, VALUES), session()
    wrong: list[int] = []

    def work(batch: int) -> None:
        expected = quantizer.ids(latents(batch))
        wrong.append(sum(not np.array_equal(subject.run(latents(batch)), expected) for _ in range(5)))

    threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "latent", [latents(5), latents(1)[:0], latents(1)[:, :2], latents(1).astype(np.float64), latents(1)[0]]
)
def test_other_latents_are_rejected(latent: Any) -> None:
    subject, _, launcher = session()
    with pytest.raises(InputError, match=r"expected float32 \[B, 3, 4, 4\] with B from 1 to 4"):
        subject.run(latent)
    assert launcher.launched == []


def test_where_nothing_can_be_recorded_every_kernel_is_launched() -> None:
    subject, host, _ = session()
    expected = subject.run(latents(2))
    host.reject_capture = True
    for _ in range(2):
        np.testing.assert_array_equal(subject.run(latents(2)), expected)
    assert subject.graphs[2].startswith("none: the CUDA driver failed while recording")
    host.reject_capture = False
    assert subject.run(latents(1)).shape == (1, 21)
    assert "its first batch" in subject.graphs[1]


def test_after_an_error_the_session_goes_on() -> None:
    subject, host, _ = session()
    expected = subject.run(latents(2))
    host.limit = host.live
    with pytest.raises(DeviceMemoryError):
        subject.run_on_device(latents(2))
    np.testing.assert_array_equal(subject.run(latents(2)), expected)


def test_staging_memory_is_locked_once_and_none_is_kept_of_the_tables() -> None:
    subject, host, _ = session()
    tables = len(host.locked)
    assert tables > 0
    assert host.live == sum(memory.nbytes for memory in subject._memory.values())
    for batch in (1, 2, 4, 3):
        subject.run(latents(batch))
    assert len(host.locked) - tables <= 2, "one in and one out, of one size"


def test_a_foreign_array_is_let_go_of_at_the_next_call() -> None:
    subject, _, _ = session()
    producer: Any = Producer(latents(2))
    array = producer.array
    before = sys.getrefcount(array)
    subject.run_on_device(producer).numpy()
    del producer
    gc.collect()
    assert sys.getrefcount(array) >= before
    subject.run(latents(1))
    gc.collect()
    assert sys.getrefcount(array) < before


def test_memory_is_given_back() -> None:
    subject, host, _ = session()
    before, sizes = host.live, [memory.nbytes for memory in subject._memory.values()]
    # Seven buffers, six tables, and two for the upsampling of each scale.
    assert len(sizes) == 7 + 6 + 2 * 3
    subject.close()
    subject.close()
    assert host.live == before - sum(sizes)


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


def artifact(part: str, format: str, file: str, engine: Any = None) -> Artifact:
    return Artifact(part, format, "fp32", file, "0" * 64, 0, engine=engine)


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
    kernels = kernel_set(SPEC, 32)
    ptx = artifact("quantizer", "ptx", "kernels/q.ptx", kernels.to_json())
    search, codebook = artifact("search", "npz", "search.fp32.npz"), artifact("codebook", "npy", "codebook.fp32.npy")
    TABLES.save(tmp_path / search.file)
    np.save(tmp_path / codebook.file, VALUES)
    found = {file: describe_file(tmp_path, file) for file in (search.file, codebook.file)}
    search, codebook = (
        dataclasses.replace(made, sha256=found[made.file][0], bytes=found[made.file][1]) for made in (search, codebook)
    )
    bundle = Bundle(tmp_path, Manifest(SPEC, (ptx, search, codebook)), b"")
    tables, arrays = read_tables(bundle, ptx, kernels)
    np.testing.assert_array_equal(tables.table, TABLES.table)
    np.testing.assert_array_equal(arrays["values"][:, :3], VALUES)
    with pytest.raises(ArtifactError, match="no search table"):
        read_tables(Bundle(tmp_path, Manifest(SPEC, (ptx, codebook)), b""), ptx, kernels)
