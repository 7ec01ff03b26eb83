"""The layer on a GPU, beside PyTorch."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends import cuda
from coda_runtime.errors import DeviceMemoryError

core = pytest.importorskip("cuda.core")


@pytest.mark.gpu
class TestGpu:
    @pytest.fixture
    def layer(self) -> Iterator[Any]:
        layer = cuda.open_device(0)
        with layer.active():
            yield layer

    def _array(self, layer: Any, values: np.ndarray[Any, Any]) -> cuda.CudaArray:
        pool, stream = cuda.StagingPool(layer), layer.create_stream()
        buffer = pool.take(values.nbytes)
        buffer.array[: values.nbytes].view(values.dtype).reshape(values.shape)[...] = values
        memory = layer.allocate(values.nbytes, stream)
        layer.copy(memory.address, buffer.address, values.nbytes, stream)
        event = stream.record()
        pool.give(buffer, event)
        event.sync()
        return cuda.CudaArray(layer, pool, memory, values.shape, values.dtype, event)

    def test_what_the_device_is(self, layer: Any) -> None:
        assert re.fullmatch(r"sm\d{2,3}", cuda.compute_capability(0))
        assert cuda.gpu_name(0)
        assert cuda.open_device(0) is layer

    def test_there_and_back(self, layer: Any) -> None:
        values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        np.testing.assert_array_equal(self._array(layer, values).numpy(), values)

    def test_torch_takes_it_without_a_copy(self, layer: Any) -> None:
        torch = pytest.importorskip("torch")
        values = np.arange(6, dtype=np.int32).reshape(2, 3)
        array = self._array(layer, values)
        tensor = torch.from_dlpack(array)
        assert tensor.data_ptr() == array.memory.address
        del array
        gc.collect()
        np.testing.assert_array_equal(tensor.cpu().numpy(), values)

    def test_the_memory_waits_for_a_consumer_that_is_busy(self, layer: Any) -> None:
        torch = pytest.importorskip("torch")
        values = np.full(1 << 20, 3, np.int32)
        with torch.cuda.stream(torch.cuda.Stream()):
            tensor = torch.from_dlpack(self._array(layer, values))
            torch.cuda._sleep(100_000_000)
            total = tensor.sum()
            del tensor
        gc.collect()
        later = [self._array(layer, np.zeros_like(values)) for _ in range(4)]
        assert int(total) == values.sum()
        del later

    def test_a_recording_of_torch_survives_memory_that_goes(self, layer: Any) -> None:
        torch = pytest.importorskip("torch")
        values = np.arange(1 << 10, dtype=np.int32)
        handed = [torch.from_dlpack(self._array(layer, values))]  # on torch's default stream
        unnamed = self._array(layer, values)
        unnamed.__dlpack__(stream=-1)
        boxes = [handed, [unnamed], [cuda.StagingPool(layer).take(64)]]
        del unnamed
        source, graph = torch.zeros(8, device="cuda"), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            doubled = source + 1
            for box in boxes:
                box.clear()
            gc.collect()
            doubled = doubled * 2
        graph.replay()
        assert (doubled.cpu() == 2).all()
        np.testing.assert_array_equal(self._array(layer, values).numpy(), values)

    def test_a_busy_torch_producer_is_waited_for(self, layer: Any) -> None:
        torch = pytest.importorskip("torch")
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(100_000_000)
            tensor = torch.full((1 << 20,), 5, dtype=torch.int32, device="cuda")
            taken = cuda.borrow(tensor, layer, layer.create_stream(), cuda.StagingPool(layer), cuda.Kept())
        assert taken.memory.address == tensor.data_ptr()
        assert (taken.numpy() == 5).all()

    def test_a_graph_of_a_copy(self, layer: Any) -> None:
        from coda_runtime.backends.cuda.streams import CudaStream

        stream = layer.create_stream()
        source, target = layer.allocate_host(64), layer.allocate_host(64)

        def work(handle: int) -> bool:
            layer.copy(target.address, source.address, 64, CudaStream(core.Stream.from_handle(handle)))
            return True

        graph = layer.capture(work)
        for value in (1, 2):
            source.array.fill(value)
            graph.launch(stream)
            stream.sync()
            assert (target.array == value).all()

    def test_the_thread_s_device_is_put_back(self) -> None:
        from cuda.bindings import driver

        layer = cuda.open_device(0)
        before = int(driver.cuCtxGetCurrent()[1])
        with layer.active():
            assert int(driver.cuCtxGetCurrent()[1]) != 0
        assert int(driver.cuCtxGetCurrent()[1]) == before

    def test_too_much(self, layer: Any) -> None:
        with pytest.raises(DeviceMemoryError, match="smaller batches"):
            layer.allocate(1 << 50, layer.create_stream())
