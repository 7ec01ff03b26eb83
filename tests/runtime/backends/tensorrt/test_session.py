"""Sessions of engines on the stand-in for the driver, whose work runs only when somebody waits."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coda_runtime.backends.base import LoadOptions, Session, keeps_on_device
from coda_runtime.backends.cuda import CudaArray
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.errors import BackendError, ClosedError, DeviceError, DeviceMemoryError, InputError
from coda_runtime.format.bundle import Bundle
from tests.runtime import tiny
from tests.runtime.backends import engines
from tests.runtime.backends.cuda import fake_trt
from tests.runtime.backends.cuda.driver.controls import Driver, Watch
from tests.runtime.backends.cuda.driver.others import Consumer, Producer, Stream

pytestmark = pytest.mark.driver


@pytest.fixture(scope="module")
def reference(sealed: Path) -> dict[str, Session]:
    """The bundle's parts on onnxruntime."""
    options = LoadOptions("cpu", threads=1)
    backend, bundle = OnnxRuntimeBackend(), Bundle.open(sealed)
    return {part: backend.load(bundle, tiny.describe(sealed, file), options) for part, file in engines.FILES.items()}


def test_a_session_is_a_device_session(tmp_path: Path, sealed: Path) -> None:
    session = engines.session(tmp_path, sealed)
    assert keeps_on_device(session)
    assert (session.device, session.batch) == ("cuda:0", (1, 2, 4))
    session.close()


def test_an_array_is_put_there_and_waited_for(
    tmp_path: Path, sealed: Path, reference: dict[str, Session], gpu: Watch
) -> None:
    before = gpu.pooled
    session = engines.session(tmp_path, sealed)
    ids = engines.ids(2, 0)
    given_ids = ids.copy()
    put = session.put(given_ids)
    given_ids[:] = 0
    assert not put.ready.is_done()
    put.wait()
    assert put.ready.is_done()
    np.testing.assert_array_equal(put.numpy(), ids)
    np.testing.assert_array_equal(session.run_on_device(put).numpy(), reference["decoder"].run(ids))
    del put
    session.close()
    gc.collect()
    with pytest.raises(ClosedError):
        session.put(ids)
    assert gpu.pooled == before


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=12), on_device=st.booleans(), chance=st.integers(0, 2**63)
)
def test_any_order_of_batch_sizes_gives_the_same_as_onnxruntime(
    tmp_path: Path,
    sealed: Path,
    reference: dict[str, Session],
    driver: Driver,
    counts: list[int],
    on_device: bool,
    chance: int,
) -> None:
    """Whether the streams run when somebody waits (0), or before, in any order."""
    driver.chance(chance)
    gpu = Watch(driver)
    session = engines.session(tmp_path, sealed, batch=(1, 3, 5))
    results = []
    for seed, count in enumerate(counts):
        batch = engines.ids(count, seed)
        results.append((batch, session.run_on_device(batch) if on_device else session.run(batch)))
    for batch, result in results:
        values = result.numpy() if isinstance(result, CudaArray) else result
        np.testing.assert_array_equal(values, reference["decoder"].run(batch))
    uses = {count: counts.count(count) for count in (1, 3, 5)}
    assert len(gpu.graphs) == sum(number >= 2 for number in uses.values()) <= 3
    assert sum(gpu.graphs) == sum(max(0, number - 1) for number in uses.values())
    session.close()


def test_parts_are_chained_on_the_gpu(tmp_path: Path, sealed: Path, reference: dict[str, Session]) -> None:
    parts = [engines.session(tmp_path, sealed, part) for part in engines.FILES]
    pixels = tiny.photos(2)
    for _ in range(3):
        step: Any = pixels
        for session in parts:
            step = session.run_on_device(step)
        ids = reference["quantizer"].run(reference["encoder"].run(pixels))
        np.testing.assert_array_equal(step.numpy(), reference["decoder"].run(ids))
    for session in parts:
        session.close()


class TestGraphs:
    def test_recorded_once_per_size_and_replayed_with_new_input(self, tmp_path: Path, sealed: Path, gpu: Watch) -> None:
        trt = fake_trt.make()
        session = engines.session(tmp_path, sealed, trt=trt)
        assert session.graphs == {1: (), 2: (), 4: ()}
        outputs = [session.run(engines.ids(2, seed)) for seed in range(6)]
        assert gpu.graphs == [5]
        assert session.graphs[2] == ("recorded",)
        assert session.graphs[1][0].startswith("not recorded yet")
        assert all(np.any(outputs[0] != other) for other in outputs[1:])
        assert trt.contexts == 1
        for count in (3, 3, 3, 1, 1, 4, 4):
            session.run(engines.ids(count))
        assert len(gpu.graphs) == 3, "3 is no size of the profile and has no graph"
        session.close()

    @pytest.mark.parametrize("how", ["driver", "library", "asked"])
    def test_where_it_cannot_be_recorded_it_runs_without_and_says_so(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session], driver: Driver, gpu: Watch, how: str
    ) -> None:
        trt = fake_trt.make(rtx=how == "asked")
        if how == "driver":
            driver.fail("cuStreamBeginCapture", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        trt.fail_recorded = how == "library"
        trt.capturable = how != "asked"
        session = engines.session(tmp_path, sealed, trt=trt)
        for seed in range(4):
            batch = engines.ids(2, seed)
            np.testing.assert_array_equal(session.run(batch), reference["decoder"].run(batch))
        said = {"driver": "UNSUPPORTED", "library": "cannot be recorded", "asked": "TensorRT says that it cannot"}[how]
        assert session.graphs[2][0].startswith("none: ")
        assert said in session.graphs[2][0]
        assert gpu.graphs == []
        session.close()

    def test_rtx_compiles_for_the_size_before_it_is_recorded(self, tmp_path: Path, sealed: Path) -> None:
        trt = fake_trt.make(rtx=True)
        session = engines.session(tmp_path, sealed, trt=trt)
        for count in (2, 2, 3, 3):
            session.run(engines.ids(count))
        assert (trt.contexts, trt.eager) == (2, 1), "the context of other sizes compiles in the background"
        assert session.graphs[2] == ("recorded",)
        session.close()


class TestThreads:
    def test_sixteen_threads_share_the_executors(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session]
    ) -> None:
        trt = fake_trt.make()
        session = engines.session(tmp_path, sealed, trt=trt, max_executors=3)
        batches = [engines.ids(1 + seed % 4, seed) for seed in range(64)]
        barrier = threading.Barrier(16)

        def work(start: int) -> list[Any]:
            barrier.wait()
            return [session.run(batch) for batch in batches[start::16]]

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(work, range(16)))
        for start, results in enumerate(found):
            for batch, result in zip(batches[start::16], results, strict=True):
                np.testing.assert_array_equal(result, reference["decoder"].run(batch))
        assert 1 <= session.executors <= 3
        assert len(trt.runs) == 64
        session.close()

    def test_one_thread_needs_one_executor(self, tmp_path: Path, sealed: Path) -> None:
        session = engines.session(tmp_path, sealed)
        for _ in range(5):
            session.run(engines.ids(1))
        assert session.executors == 1
        session.close()

    def test_threads_wait_where_memory_has_room_for_one_executor(
        self, tmp_path: Path, sealed: Path, gpu: Watch
    ) -> None:
        session = engines.session(tmp_path, sealed)
        done = threading.Event()

        def wait_for_an_executor() -> None:
            with session._executor(1):
                done.set()

        thread = threading.Thread(target=wait_for_an_executor)
        with session._executor(1):
            gpu.leave()  # nothing for a second one
            thread.start()
            assert not done.wait(0.2)
            assert session.max_executors == 1
        assert done.wait(10)
        thread.join()
        assert session.executors == 1
        session.close()

    def test_two_devices_are_used_from_the_same_threads(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session]
    ) -> None:
        sessions = [engines.session(tmp_path, sealed, index=index) for index in range(2)]
        assert [session.device for session in sessions] == ["cuda:0", "cuda:1"]
        batch = engines.ids(2)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: sessions[i % 2].run(batch), range(12)))
        for result in found:
            np.testing.assert_array_equal(result, reference["decoder"].run(batch))
        with pytest.raises(DeviceError, match=r"lies on cuda:0, and this part runs on cuda:1"):
            sessions[1].run_on_device(sessions[0].run_on_device(batch))
        for session in sessions:
            session.close()


class TestOutputs:
    def test_an_array_is_not_overwritten_by_later_calls(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session]
    ) -> None:
        session = engines.session(tmp_path, sealed)
        batches = [engines.ids(2, seed) for seed in range(8)]
        arrays = [session.run_on_device(batch) for batch in batches]
        session.close()
        for batch, array in zip(batches, arrays, strict=True):
            np.testing.assert_array_equal(array.numpy(), reference["decoder"].run(batch))
            np.testing.assert_array_equal(array.numpy(), reference["decoder"].run(batch))

    def test_a_call_returns_before_its_work_is_done(self, tmp_path: Path, sealed: Path) -> None:
        trt = fake_trt.make()
        session = engines.session(tmp_path, sealed, trt=trt)
        array = session.run_on_device(engines.ids(2))
        assert trt.runs == []
        array.numpy()
        assert len(trt.runs) == 1
        session.close()

    def test_a_consumer_may_drop_an_array_before_it_was_read(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session]
    ) -> None:
        session = engines.session(tmp_path, sealed)
        batch = engines.ids(2)
        consumer = Consumer(session.run_on_device(batch))
        values = consumer.read_later()
        consumer.drop()  # as torch does, with kernels still queued
        gc.collect()
        for seed in range(3):
            session.run(engines.ids(2, seed))
        consumer.stream.sync()
        np.testing.assert_array_equal(values, reference["decoder"].run(batch))
        session.close()

    def test_the_memory_comes_back(self, tmp_path: Path, sealed: Path, driver: Driver, gpu: Watch) -> None:
        driver.finish()
        start = gpu.pooled
        session = engines.session(tmp_path, sealed)
        session.run(engines.ids(4))
        before = gpu.pooled
        array = session.run_on_device(engines.ids(4))
        assert gpu.pooled > before
        array.numpy()
        session.run(engines.ids(4))
        del array
        gc.collect()
        assert gpu.pooled == before
        session.close()
        assert gpu.pooled == gpu.reserved == start, "and others, such as torch, can have it"


class TestInputs:
    def test_a_foreign_array_is_read_after_its_producer_wrote_it(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session]
    ) -> None:
        session = engines.session(tmp_path, sealed)
        values = engines.ids(3)
        producer: Any = Producer(values)
        array = session.run_on_device(producer)
        (asked,) = producer.asked
        assert asked["stream"] == session._dlpack_stream.handle  # type: ignore[union-attr]
        np.testing.assert_array_equal(array.numpy(), reference["decoder"].run(values))
        session.close()

    def test_a_foreign_array_is_kept_until_it_was_read(self, tmp_path: Path, sealed: Path, foreign: Any) -> None:
        session = engines.session(tmp_path, sealed)
        producer: Any = Producer(engines.ids(2))
        life = producer.life
        out = session.run_on_device(producer)
        del producer
        gc.collect()
        assert not life.ended, "the capsule is held"
        out.numpy()
        session.run_on_device(foreign(engines.ids(2)))
        gc.collect()
        assert life.ended
        session.close()

    def test_a_foreign_array_goes_at_any_next_call(self, tmp_path: Path, sealed: Path) -> None:
        session = engines.session(tmp_path, sealed)
        producer: Any = Producer(engines.ids(2))
        life = producer.life
        out = session.run_on_device(producer)
        del producer
        out.numpy()
        gc.collect()
        assert not life.ended, "nobody has asked yet whether it was read"
        session.run(engines.ids(2))
        gc.collect()
        assert life.ended
        session.close()

    def test_an_array_of_ours_may_be_dropped_before_it_was_read(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session]
    ) -> None:
        first = engines.session(tmp_path, sealed, "quantizer")
        second = engines.session(tmp_path, sealed, "decoder")
        latent = np.random.default_rng(0).normal(size=(2, tiny.CHANNELS, tiny.SIDE, tiny.SIDE)).astype(np.float32)
        images = second.run_on_device(first.run_on_device(latent))
        gc.collect()
        first._pools[0]._executors[0].stream.sync()  # frees the ids, and must run the decoder's copy of them before
        np.testing.assert_array_equal(images.numpy(), reference["decoder"].run(reference["quantizer"].run(latent)))
        first.close()
        second.close()

    @pytest.mark.parametrize("other_thread", [False, True])
    def test_it_runs_while_another_library_records_a_graph(
        self, tmp_path: Path, sealed: Path, reference: dict[str, Session], other_thread: bool
    ) -> None:
        stream, session = Stream(), engines.session(tmp_path, sealed)
        stream.begin_capture()

        def work() -> None:
            for batch in (engines.ids(count, count) for count in (1, 2, 2, 2, 3, 4)):
                np.testing.assert_array_equal(session.run(batch), reference["decoder"].run(batch))
                found = session.run_on_device(session.put(batch))
                np.testing.assert_array_equal(found.numpy(), reference["decoder"].run(batch))
            session.close()

        if other_thread:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(work).result()
        else:
            work()
        assert stream.end_capture() == 0

    @pytest.mark.parametrize("count", [0, 5])
    def test_a_batch_outside_the_profile(self, tmp_path: Path, sealed: Path, foreign: Any, count: int) -> None:
        session = engines.session(tmp_path, sealed)
        for call in (session.run, session.run_on_device):
            with pytest.raises(InputError, match=r"batches from 1 to 4, best 2.*coda build BUNDLE .*--batch"):
                call(engines.ids(count))
        with pytest.raises(InputError, match=r"got a batch of 5"):
            session.run_on_device(foreign(engines.ids(5)))
        session.close()

    @pytest.mark.parametrize(
        "batch", [np.zeros((2, 21), np.int64), np.zeros((2, 20), np.int32), np.zeros(21, np.int32)]
    )
    def test_another_shape_or_dtype(self, tmp_path: Path, sealed: Path, foreign: Any, batch: Any) -> None:
        session = engines.session(tmp_path, sealed)
        with pytest.raises(InputError, match=r"expected int32 \[B, 21\]"):
            session.run(batch)
        with pytest.raises(InputError, match=r"expected int32 \[B, 21\]"):
            session.run_on_device(foreign(batch))
        session.close()

    def test_a_strided_numpy_array_is_taken(self, tmp_path: Path, sealed: Path, reference: dict[str, Session]) -> None:
        session = engines.session(tmp_path, sealed)
        batch = np.asfortranarray(engines.ids(4))[::2]
        np.testing.assert_array_equal(session.run(batch), reference["decoder"].run(np.ascontiguousarray(batch)))
        session.close()


SMALLER_MAX = (
    r"; decoder\.engine holds memory for batches of 4, whatever the batch: build it with a smaller MAX: "
    r"coda build BUNDLE --engine tensorrt --batch MIN,OPT,MAX, or free memory"
)


class TestErrors:
    def test_the_library_s_first_error_is_reported(self, tmp_path: Path, sealed: Path) -> None:
        trt = fake_trt.make()
        session = engines.session(tmp_path, sealed, trt=trt)
        trt.fail_execute = "[executionContext.cpp] Error Code 3: bad address\nmore"
        with pytest.raises(BackendError, match=r"decoder.engine failed on a batch of 2 \(.*bad address\); try again"):
            session.run(engines.ids(2))
        trt.fail_execute = ""
        assert session.run(engines.ids(2)).shape[0] == 2, "and the session goes on"
        session.close()

    @pytest.mark.parametrize("where", ["fail_execute", "fail_context"])
    def test_no_memory_says_so(self, tmp_path: Path, sealed: Path, where: str) -> None:
        trt = fake_trt.make()
        session = engines.session(tmp_path, sealed, trt=trt)
        setattr(trt, where, "Error Code 1: Cuda Runtime (out of memory)")
        with pytest.raises(DeviceMemoryError, match=SMALLER_MAX) as raised:
            session.run(engines.ids(2))
        assert "out of memory" in str(raised.value)
        assert "smaller batches" not in str(raised.value)
        session.close()

    def test_no_memory_for_the_first_executor(self, tmp_path: Path, sealed: Path, gpu: Watch) -> None:
        session = engines.session(tmp_path, sealed)
        gpu.leave(600)
        with pytest.raises(DeviceMemoryError, match=f"allocating.*{SMALLER_MAX}"):
            session.run(engines.ids(2))
        assert session.max_executors == 4
        session.close()

    def test_closed(self, tmp_path: Path, sealed: Path) -> None:
        session = engines.session(tmp_path, sealed)
        session.run(engines.ids(1))
        session.close()
        session.close()
        with pytest.raises(ClosedError, match="load the bundle again"):
            session.run(engines.ids(1))

    def test_a_dropped_session_closes_itself_on_its_device(self, tmp_path: Path, sealed: Path) -> None:
        session = engines.session(tmp_path, sealed)
        session.run(engines.ids(1))
        engine = session._engine
        del session
        gc.collect()
        assert engine.raw is None
