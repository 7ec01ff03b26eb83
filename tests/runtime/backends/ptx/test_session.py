"""Sessions of the quantizer's kernels on the stand-in for the driver, which does their work in NumPy."""

from __future__ import annotations

import ctypes.util
import dataclasses
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_runtime.backends.base import LoadOptions, keeps_on_device
from coda_runtime.backends.cuda import open_device
from coda_runtime.backends.ptx import SearchTables, device_tables
from coda_runtime.backends.ptx.backend import PtxBackend
from coda_runtime.backends.ptx.session import PtxSession
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.errors import BackendError, ClosedError, DeviceError, DeviceMemoryError, InputError
from tests.runtime.backends.cuda.driver.controls import Driver, Watch
from tests.runtime.backends.cuda.driver.others import Consumer, Producer, Stream
from tests.runtime.backends.host_kernels import NotingLauncher, kernel_set, with_ptx
from tests.runtime.backends.ptx.small import NORMED, SPEC, TABLES, VALUES, bundle_of

pytestmark = pytest.mark.driver


def latents(batch: int) -> Any:
    return np.random.default_rng(batch).standard_normal((batch, 3, 4, 4), np.float32)


def session(
    driver: Driver, tables: SearchTables = TABLES, max_batch: int = 4, index: int = 0
) -> tuple[PtxSession, NotingLauncher]:
    kernels = kernel_set(SPEC, 32, 0 if tables.spread is None else tables.spread.shape[1])
    arrays, launcher = device_tables(kernels, SPEC, tables, VALUES), NotingLauncher(driver, kernels, index)
    layer = open_device(index)
    return PtxSession(kernels, SPEC, arrays, layer, launcher, eps=tables.eps, max_batch=max_batch), launcher


@pytest.fixture
def expected() -> NumpyQuantizer:
    return NumpyQuantizer(SPEC, TABLES, VALUES)


@pytest.mark.parametrize("tables", [TABLES, NORMED], ids=["plain", "layer norm"])
def test_ids_with_and_without_a_graph(driver: Driver, gpu: Watch, tables: SearchTables) -> None:
    quantizer, (subject, launcher) = NumpyQuantizer(SPEC, tables, VALUES), session(driver, tables)
    assert keeps_on_device(subject)
    for repeat in range(3):
        for batch in (1, 3, 4):
            latent = latents(batch) + repeat
            np.testing.assert_array_equal(subject.run(latent), quantizer.ids(latent))
    assert subject.graphs == dict.fromkeys((1, 3, 4), "recorded")
    assert gpu.graphs == [2, 2, 2]
    # Once launched and once recorded, for each of three sizes: three scales of four kernels, less the last subtract.
    assert len(launcher.launched) == driver.called("cuLaunchKernelEx") == 2 * 3 * 11
    subject.close()


@pytest.mark.parametrize("tables", [TABLES, NORMED], ids=["plain", "layer norm"])
def test_scales_of_many_tokens_are_screened(driver: Driver, tables: SearchTables) -> None:
    kernels = kernel_set(SPEC, 256, 0 if tables.spread is None else 6, screens=True)
    launcher, layer = NotingLauncher(driver, kernels), open_device(0)
    with layer.active():
        assert launcher.places(kernels.of("screen")[0]) % 8 == 0
    arrays = device_tables(kernels, SPEC, tables, VALUES)
    subject = PtxSession(kernels, SPEC, arrays, layer, launcher, eps=tables.eps, max_batch=8)
    for batch in (8, 1):
        np.testing.assert_array_equal(
            subject.run(latents(batch)), NumpyQuantizer(SPEC, tables, VALUES).ids(latents(batch))
        )
    searches = [entry for entry in launcher.launched if "search" in entry or "screen" in entry]
    assert searches == ["search_m8", "search_m8", "screen_m8", "search_m2", "search_m2", "search_m8"]
    subject.close()


@settings(max_examples=20)
@given(seed=st.integers(1, 2**63), batches=st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_ids_in_whatever_order_the_streams_run(driver: Driver, seed: int, batches: list[int]) -> None:
    """What is dropped early, read late, or waits for the wrong stream, is wrong in some order."""
    quantizer, (subject, _) = NumpyQuantizer(SPEC, TABLES, VALUES), session(driver, max_batch=3)
    driver.chance(seed)
    kept = []
    for number, batch in enumerate(batches):
        latent = latents(batch) + number
        # One alone is made: a producer that goes at once overwrites what its own stream is still writing to.
        make: Any = (lambda values: values, Producer, subject.put)[number % 3]
        given = make(latent)
        ids = subject.run_on_device(given)
        del given
        consumer = Consumer(ids)
        kept.append((consumer, consumer.read_later(), ids if number % 2 else None, latent))
        consumer.drop()
        del ids
    subject.close()
    for consumer, read, ids, latent in kept:
        consumer.stream.sync()
        np.testing.assert_array_equal(read, quantizer.ids(latent))
        if ids is not None:
            np.testing.assert_array_equal(ids.numpy(), quantizer.ids(latent))


def test_ids_stay_on_the_gpu_and_outlive_the_session(driver: Driver, expected: NumpyQuantizer) -> None:
    subject, _ = session(driver)
    kept = [(subject.run_on_device(latents(batch)), latents(batch)) for batch in (1, 2, 2, 2)]
    subject.close()
    for array, latent in kept:
        np.testing.assert_array_equal(array.numpy(), expected.ids(latent))
    with pytest.raises(ClosedError, match="load the bundle again"):
        subject.run(latents(1))


def test_an_array_on_the_gpu_is_read_after_it_was_written(driver: Driver, expected: NumpyQuantizer) -> None:
    (subject, _), (other, _) = session(driver), session(driver)
    latent = latents(2)
    found = subject.run_on_device(Producer(latent))  # type: ignore[arg-type] # as much of the protocol as is asked
    np.testing.assert_array_equal(found.numpy(), expected.ids(latent))
    elsewhere: Any = Producer(latent, index=1)
    with pytest.raises(DeviceError, match="cuda:1"):
        other.run_on_device(elsewhere)
    with pytest.raises(InputError, match="got int32"):
        other.run_on_device(found)
    driver.finish(1)


def test_each_gpu_has_its_own_session(driver: Driver, expected: NumpyQuantizer) -> None:
    sessions = [session(driver, index=index)[0] for index in range(2)]
    watches = [Watch(driver, index) for index in range(2)]
    for subject in sessions:
        for batch in (2, 2, 2):
            found = subject.run_on_device(latents(batch))
            assert found.device == subject.device
            np.testing.assert_array_equal(found.numpy(), expected.ids(latents(batch)))
    assert [watch.graphs for watch in watches] == [[2], [2]]
    for subject in sessions:
        subject.close()


def test_an_array_is_put_there_and_waited_for(driver: Driver, gpu: Watch, expected: NumpyQuantizer) -> None:
    subject, _ = session(driver)
    latent = latents(2)
    given = latent.copy()
    put = subject.put(given)
    given[:] = 0
    assert not put.ready.is_done()
    put.wait()
    assert put.ready.is_done()
    np.testing.assert_array_equal(put.numpy(), latent)
    np.testing.assert_array_equal(subject.run_on_device(put).numpy(), expected.ids(latent))
    before = gpu.pooled
    del put
    gc.collect()
    assert gpu.pooled == before - latent.nbytes
    subject.close()
    with pytest.raises(ClosedError):
        subject.put(latent)


def test_threads_take_turns(driver: Driver, expected: NumpyQuantizer) -> None:
    subject, _ = session(driver)
    wrong: list[int] = []

    def work(batch: int) -> None:
        ids = expected.ids(latents(batch))
        wrong.append(sum(not np.array_equal(subject.run(latents(batch)), ids) for _ in range(5)))

    threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0, 0, 0]


@pytest.mark.parametrize("other_thread", [False, True])
def test_it_runs_while_another_library_records_a_graph(
    driver: Driver, expected: NumpyQuantizer, other_thread: bool
) -> None:
    """As torch.cuda.graph does, whose recordings forbid every thread what is unsafe: to lock pages, to ask, to wait."""
    subject, _ = session(driver)
    stream = Stream()
    stream.begin_capture()

    def work() -> None:
        for batch in (1, 2, 2, 2, 4):
            np.testing.assert_array_equal(subject.run(latents(batch)), expected.ids(latents(batch)))
            array = subject.run_on_device(subject.put(latents(batch)))
            np.testing.assert_array_equal(array.numpy(), expected.ids(latents(batch)))
        subject.close()
        session(driver)[0].close()

    if other_thread:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()
    else:
        work()
    assert stream.end_capture() == 0
    assert subject.graphs[2] == "recorded"


@pytest.mark.parametrize(
    "latent", [latents(5), latents(1)[:0], latents(1)[:, :2], latents(1).astype(np.float64), latents(1)[0]],
    ids=["too many", "none", "two channels", "float64", "no batch"],
)  # fmt: skip
def test_other_latents_are_rejected(driver: Driver, latent: Any) -> None:
    subject, launcher = session(driver)
    with pytest.raises(InputError, match=r"expected float32 \[B, 3, 4, 4\] with B from 1 to 4"):
        subject.run(latent)
    assert launcher.launched == []


def test_where_nothing_can_be_recorded_every_kernel_is_launched(driver: Driver, gpu: Watch) -> None:
    subject, _ = session(driver)
    expected = subject.run(latents(2))
    driver.fail("cuStreamEndCapture", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
    for _ in range(2):
        np.testing.assert_array_equal(subject.run(latents(2)), expected)
    assert subject.graphs[2].startswith("none: the CUDA driver failed while recording")
    assert gpu.graphs == []
    assert subject.run(latents(1)).shape == (1, 21)
    assert "its first batch" in subject.graphs[1]


def test_after_an_error_the_session_goes_on(driver: Driver, gpu: Watch) -> None:
    subject, _ = session(driver)
    expected = subject.run(latents(2))
    gpu.leave()
    with pytest.raises(DeviceMemoryError):
        subject.run_on_device(latents(2))
    for function in ("cuMemcpyAsync", "cuLaunchKernelEx", "cuStreamSynchronize"):
        driver.fail(function, "CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(BackendError, match="ILLEGAL_ADDRESS"):
            subject.run(latents(4))
    np.testing.assert_array_equal(subject.run(latents(2)), expected)


def test_staging_memory_is_locked_once_and_none_is_kept_of_the_tables(driver: Driver) -> None:
    gpu = Watch(driver)
    before = gpu.locked
    subject, _ = session(driver)
    assert len(gpu.locks) > 0
    assert gpu.locked == before
    gpu = Watch(driver)
    for batch in (1, 2, 4, 3):
        subject.run(latents(batch))
    assert len(gpu.locks) <= 2, "one in and one out, of one size"


def test_a_foreign_array_is_let_go_of_at_the_next_call(driver: Driver) -> None:
    subject, _ = session(driver)
    producer: Any = Producer(latents(2))
    life = producer.life
    subject.run_on_device(producer).numpy()
    del producer
    gc.collect()
    assert not life.ended
    subject.run(latents(1))
    gc.collect()
    assert life.ended


def test_memory_is_given_back_to_others_when_it_is_closed(driver: Driver) -> None:
    """The device's pool keeps what is freed, and torch allocates past it: it would get none of what a session had."""
    gpu = Watch(driver)
    driver.finish()
    before = gpu.pooled
    subject, _ = session(driver)
    held = gpu.pooled - before
    # Seven buffers, six tables, and two for the upsampling of each scale.
    assert len(subject._memory) == 7 + 6 + 2 * 3
    assert held == sum(memory.nbytes for memory in subject._memory.values())
    subject.run(latents(2))
    others = gpu.pooled - before - held
    subject.close()
    subject.close()
    assert gpu.pooled == before + others
    assert gpu.reserved == gpu.pooled


def test_it_loads_without_nvml(driver: Driver, tmp_path: Path) -> None:
    """Containers have the driver, and often no NVML, as here."""
    if ctypes.util.find_library("nvidia-ml") is not None:
        pytest.skip("there is an NVML here")
    kernels, ptx = with_ptx(kernel_set(SPEC, 32))
    bundle, made = bundle_of(tmp_path, kernels, ptx)
    backend = PtxBackend()
    assert backend.check(bundle, made, LoadOptions()) is None
    subject = backend.load(bundle, made, LoadOptions("cuda:1"))
    assert (subject.device, subject.batch) == ("cuda:1", (1, 8, 64))
    subject.close()
    old = dataclasses.replace(made, engine={**kernels.to_json(), "ptx_isa": "99.9"})
    assert "another PTX version" in str(backend.check(bundle, old, LoadOptions()))
