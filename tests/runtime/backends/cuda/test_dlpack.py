"""Foreign arrays: what is asked of the producer, and what is refused."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coda_runtime.backends import cuda
from coda_runtime.backends.cuda import CudaArray, Kept, StagingPool, borrow
from coda_runtime.backends.cuda.dlpack import BorrowedMemory
from coda_runtime.backends.onnxruntime.session import OrtDeviceSession
from coda_runtime.errors import DeviceError, InputError
from tests.runtime import tiny
from tests.runtime.backends.cuda.driver.controls import Driver
from tests.runtime.backends.cuda.driver.others import Producer
from tests.runtime.backends.cuda.held import current

pytestmark = pytest.mark.driver


def take(array: Any, index: int = 0, kept: Kept | None = None) -> CudaArray:
    layer = cuda.open_device(index)
    with layer.active():
        return borrow(array, layer, layer.create_stream(), StagingPool(layer), kept or Kept())


@given(hnp.arrays(st.sampled_from([np.uint8, np.int32, np.float32]), hnp.array_shapes(max_dims=4, max_side=5)))
def test_taken_without_a_copy_after_the_producer_wrote(values: np.ndarray[Any, Any]) -> None:
    producer = Producer(values)
    taken = take(producer)
    assert taken.memory.address == producer.address
    assert (taken.shape, taken.dtype) == (values.shape, values.dtype)
    np.testing.assert_array_equal(taken.numpy(), values)


def test_the_producer_is_told_the_stream() -> None:
    layer = cuda.open_device(0)
    producer = Producer(np.zeros(3, np.float32))
    with layer.active():
        stream = layer.create_stream()
        borrow(producer, layer, stream, StagingPool(layer), Kept())
    assert [options["stream"] for options in producer.asked] == [stream.handle]


def test_a_tensor_of_a_gpu_that_is_not_the_thread_s_is_taken(driver: Driver) -> None:
    """torch gives no tensor of another device than the current one."""
    values = np.arange(3, dtype=np.int32)
    np.testing.assert_array_equal(take(Producer(values, index=1), index=1).numpy(), values)


def test_an_array_of_ours_is_taken_as_it_is() -> None:
    taken = take(Producer(np.zeros(3, np.float32)))
    assert take(taken) is taken
    with pytest.raises(DeviceError, match="lies on cuda:0, and this part runs on cuda:1"):
        take(taken, index=1)


class Old(Producer):
    """From before DLPack 1.0."""

    def __dlpack__(self, *, stream: int) -> object:  # type: ignore[override]
        return super().__dlpack__(stream=stream)


class Unwilling(Producer):
    def __dlpack__(self, **options: Any) -> object:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")


def test_an_older_producer() -> None:
    values = np.arange(3, dtype=np.int32)
    np.testing.assert_array_equal(take(Old(values)).numpy(), values)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: Producer(np.zeros((2, 3), np.float32), transposed=True), InputError,
         r"\[3, 2\] is strided .*x\.contiguous\(\)"),
        (lambda: Unwilling(np.zeros(3)), InputError, "require gradient.*without gradients"),
        (lambda: Producer(np.zeros(3), index=1), DeviceError, "lies on cuda:1"),
        (lambda: Producer(np.zeros(3), kind=1), DeviceError, "lies on the CPU"),
        (lambda: Producer(np.zeros(3), kind=99), DeviceError, "kind 99"),
        (lambda: [1, 2, 3], InputError, "got a list"),
    ],
    ids=["strided", "with gradients", "another GPU", "the CPU", "kind 99", "a list"],
)  # fmt: skip
def test_rejected(driver: Driver, make: Any, kind: type[Exception], text: str) -> None:
    array = make()
    with pytest.raises(kind, match=text):
        take(array)
    driver.finish(0)
    driver.finish(1)


def test_strides_of_sides_of_one_do_not_matter() -> None:
    assert take(Producer(np.zeros((1, 3), np.float32), transposed=True)).shape == (3, 1)


def test_an_array_is_kept_until_it_was_read(driver: Driver) -> None:
    values, kept, layer = np.arange(64, dtype=np.int32), Kept(), cuda.open_device(0)
    producer = Producer(values)
    life = producer.life
    taken = take(producer, kept=kept)
    with layer.active():
        stream = layer.create_stream()
        target = layer.allocate(values.nbytes, stream)
        stream.wait(taken.ready)
        layer.copy(target.address, taken.memory.address, values.nbytes, stream)
        taken.memory.used_until(stream.record())
        copied = CudaArray(layer, StagingPool(layer), target, values.shape, values.dtype, stream.record())
        del taken, producer
        gc.collect()
        kept.collect()
        assert not life.ended, "the copy is still queued"
        np.testing.assert_array_equal(copied.numpy(), values)
        kept.collect()
        assert life.ended


def test_an_owner_is_kept_until_its_readers_have_passed() -> None:
    layer, kept = cuda.open_device(0), Kept()

    class Owner:
        gone = False

        def __del__(self) -> None:
            Owner.gone = True

    with layer.active():
        stream = layer.create_stream()
        memory = BorrowedMemory(0, 0, Owner(), kept)
        memory.used_until(stream.record())
        del memory
        gc.collect()
        kept.collect()
        assert not Owner.gone
        stream.sync()
        kept.collect()
        gc.collect()
        assert Owner.gone
        Owner.gone = False
        del_at_once = BorrowedMemory(0, 0, Owner(), kept)
        del del_at_once
        gc.collect()
        assert Owner.gone


def test_onnxruntime_takes_a_tensor_of_a_gpu_that_is_not_the_thread_s(sealed: Path, foreign: Any) -> None:
    """torch gives no tensor of another device than the current one: it is made the current one meanwhile."""
    library = onnxruntime.InferenceSession(str(sealed / "encoder.fp32.onnx"), providers=["CPUExecutionProvider"])
    images = tiny.photos(2)
    producer = foreign(images, index=1)
    taken = OrtDeviceSession(onnxruntime, library, "cuda:1", ("cuda", 1)).take(producer)
    assert (taken.value.data_ptr(), taken.__dlpack_device__()) == (producer.address, (2, 1))
    assert (taken.shape, taken.dtype) == (images.shape, images.dtype)
    assert [asked["stream"] for asked in producer.asked] == [1]
    assert current() is None
