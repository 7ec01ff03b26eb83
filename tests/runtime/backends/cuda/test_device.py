"""The real layer: what of it runs without a GPU, its types against cuda-core's stubs, and on a GPU all of it."""

from __future__ import annotations

import gc
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends import cuda
from coda_runtime.backends.cuda import opening
from coda_runtime.backends.cuda.failures import failures
from coda_runtime.errors import BackendError, DeviceError, DeviceMemoryError, InputError, MissingDependencyError
from coda_runtime.machine.devices import Gpu, count_cuda_devices
from tests.runtime.backends.cuda import fake_core

core = pytest.importorskip("cuda.core")
ROOT = Path(__file__).parents[4]
FOLDER = Path(core.__file__ or "").parent.parent  # importing it turns cuda/core into cuda/core/cu12 or cu13


class TestOpening:
    @pytest.mark.skipif(count_cuda_devices() > 0, reason="there is a GPU")
    @pytest.mark.parametrize("call", [cuda.open_device, cuda.compute_capability, cuda.gpu_name])
    def test_no_gpu(self, call: Any) -> None:
        with pytest.raises(DeviceError, match=r"shows none here .*to run on the CPU pass device=.cpu.$"):
            call(0)

    def test_a_gpu_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "count_cuda_devices", lambda: 2)
        with pytest.raises(DeviceError, match=r'"cuda:2", and the NVIDIA driver shows 2 GPUs here'):
            cuda.open_device(2)

    def test_what_the_gpu_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "count_cuda_devices", lambda: 1)
        monkeypatch.setattr(opening, "find_gpu", lambda index: Gpu("NVIDIA L4", "sm89", "13.0"))
        assert (cuda.compute_capability(0), cuda.gpu_name(0)) == ("sm89", "NVIDIA L4")
        monkeypatch.setattr(opening, "find_gpu", lambda index: Gpu("NVIDIA L4", "sm89", "11.8"))
        with pytest.raises(DeviceError, match="update the driver"):
            cuda.compute_capability(0)

    def test_cuda_core_does_not_import(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "_find", lambda index: Gpu("NVIDIA L4", "sm89", "13.0"))
        monkeypatch.setitem(sys.modules, "coda_runtime.backends.cuda.device", None)
        with pytest.raises(BackendError, match=r"does not import .*force-reinstall .cuda-core>="):
            cuda.open_device(97)

    def test_a_driver_that_is_too_old(self) -> None:
        opening.check_driver("13.0", "13.5.0")
        opening.check_driver("13.1", "12.9.4")
        with pytest.raises(DeviceError, match=r'for CUDA 12\.4, and cuda-bindings 13\.5\.0 .*"cuda-bindings==12\.\*"'):
            opening.check_driver("12.4", "13.5.0")

    def test_cuda_core_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert cuda.missing("tensorrt") is None

        def find(name: str) -> None:
            raise ModuleNotFoundError(name)

        for finder in (find, lambda name: None):
            monkeypatch.setattr(importlib.util, "find_spec", finder)
            found = cuda.missing("tensorrt")
            assert isinstance(found, MissingDependencyError)
            assert found.extra == "tensorrt"


class TestFailures:
    def test_memory(self) -> None:
        text = r"ran out while allocating 8 bytes \(CUDA_ERROR_OUT_OF_MEMORY"
        with pytest.raises(DeviceMemoryError, match=text), failures("allocating 8 bytes"):
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: The API call failed\nbecause")

    def test_others(self) -> None:
        text = r"failed while copying \(CUDA_ERROR_ILLEGAL_ADDRESS\)"
        with pytest.raises(BackendError, match=text) as raised, failures("copying"):
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
        assert not isinstance(raised.value, DeviceMemoryError)

    def test_ours_pass(self) -> None:
        with pytest.raises(InputError, match="as it was"), failures("copying"):
            raise InputError("as it was")


def test_the_owner_lets_go_with_the_last_array() -> None:
    """cuda.core's capsule keeps the memory for as long as somebody has an array of it."""
    from cuda.core import Buffer
    from cuda.core.utils import StridedMemoryView

    from coda_runtime.backends.cuda.memory import Owner

    class OnTheHost(Owner):
        is_device_accessible = property(lambda self: False)
        is_host_accessible = property(lambda self: True)

    class Memory:
        values = np.arange(6, dtype=np.int32)

    memory = Memory()
    owner = OnTheHost(memory, 0)  # type: ignore[arg-type]
    buffer = Buffer.from_handle(memory.values.ctypes.data, memory.values.nbytes, mr=owner)
    array = np.from_dlpack(StridedMemoryView.from_buffer(buffer, (2, 3), dtype=np.dtype(np.int32)))
    del buffer
    gc.collect()
    assert owner._memory is memory  # type: ignore[comparison-overlap]
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])
    del array
    gc.collect()
    assert owner._memory is None
    assert Owner(memory, 3).device_id == 3  # type: ignore[arg-type]


class TestCalls:
    """What the real layer asks of cuda.core and of the driver, and in what order."""

    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> fake_core.FakeCore:
        from coda_runtime.backends.cuda import device

        fake = fake_core.FakeCore()
        monkeypatch.setattr(device, "driver", fake.driver)
        monkeypatch.setattr(device, "Device", fake.Device)
        monkeypatch.setattr(device, "Buffer", SimpleNamespace(from_handle=fake.from_handle))
        monkeypatch.setattr(
            device, "Stream", SimpleNamespace(from_handle=lambda handle: fake_core.FakeStream(fake, f"{handle:#x}"))
        )
        monkeypatch.setattr(device, "LEGACY_DEFAULT_STREAM", fake_core.FakeStream(fake, "legacy"))
        monkeypatch.setattr(device, "PER_THREAD_DEFAULT_STREAM", fake_core.FakeStream(fake, "per thread"))
        return fake

    @pytest.fixture
    def layer(self, fake: fake_core.FakeCore) -> Any:
        from coda_runtime.backends.cuda.device import CudaDevice

        return CudaDevice(0)

    def test_the_thread_s_context_is_put_back(self, fake: fake_core.FakeCore, layer: Any) -> None:
        assert fake.current == 7
        with layer.active():
            assert fake.current == 100
            with layer.active():
                pass
            assert fake.current == 100
        assert fake.current == 7
        with pytest.raises(KeyError), layer.active():
            raise KeyError
        assert fake.current == 7

    def test_memory_is_freed_on_its_stream_after_its_readers(self, fake: fake_core.FakeCore, layer: Any) -> None:
        with layer.active():
            memory = layer.allocate(64, layer.create_stream())
            done, pending = layer.create_stream().record(), layer.create_stream().record()
            memory.used_until(done)
            done.sync()
            memory.used_until(pending)
        address = memory.address
        del memory
        gc.collect()
        assert fake.calls == [("stream 2", "waits for", pending.raw.number), ("free", address, "stream 2")]
        assert fake.current == 7

    def test_what_was_handed_out_is_freed_after_its_consumers(self, fake: fake_core.FakeCore, layer: Any) -> None:
        address = _hand_out(layer, 0x7F00, 0x7F00)
        event = fake.events
        assert fake.calls == [
            ("record", 0x7F00, event), ("stream 2", "waits for", event), ("free", address, "stream 2")
        ]  # fmt: skip

    def test_another_thread_s_default_stream(self, fake: fake_core.FakeCore, layer: Any) -> None:
        _hand_out(layer, 2)
        assert fake.calls[0] == ("record", 1, fake.events), "this thread's need not be the consumer's"

    def test_a_consumer_that_names_no_stream(self, fake: fake_core.FakeCore, layer: Any) -> None:
        address = _hand_out(layer, None)
        assert fake.calls == [], "nothing is asked while an object goes"
        with layer.active():
            layer.allocate(8, layer.create_stream())
        assert {call[1] for call in fake.calls if call[0] == "record"} == {1, layer.transfer_stream().handle}
        assert next(call for call in fake.calls if call[0] == "free") == ("free", address, "stream 2")

    @pytest.mark.parametrize(("named", "recording"), [(0x7F00, 0x7F00), (1, 0x5500)])
    def test_while_a_consumer_s_stream_is_recorded_memory_is_kept_and_freed_later(
        self, fake: fake_core.FakeCore, layer: Any, named: int, recording: int
    ) -> None:
        fake.recording.add(recording)
        address = _hand_out(layer, named)
        assert fake.calls == [], "a recording is left alone"
        with layer.active():
            stream = layer.create_stream()
            kept = [layer.allocate(8, stream)]
            assert fake.calls == []
            fake.recording.clear()
            kept.append(layer.allocate(8, stream))
        assert [call[:2] for call in fake.calls] == [
            ("record", named), ("stream 2", "waits for"), ("free", address)
        ]  # fmt: skip

    def test_a_recording_that_begins_in_between(self, fake: fake_core.FakeCore, layer: Any) -> None:
        fake.begins_after = 0x7F00
        _hand_out(layer, 0x7F00)
        assert [call[0] for call in fake.calls] == ["record"], "the event may be the recording's: nothing waits for it"

    def test_a_consumer_s_stream_that_is_gone(self, fake: fake_core.FakeCore, layer: Any) -> None:
        fake.gone.add(0x7F00)
        address = _hand_out(layer, 0x7F00)
        with layer.active():
            layer.allocate(8, layer.create_stream())
        assert [call[:2] for call in fake.calls][:3] == [
            ("record", 1), ("stream 2", "waits for"), ("free", address)
        ]  # fmt: skip

    def test_memory_may_go_while_a_graph_is_recorded(self, fake: fake_core.FakeCore, layer: Any) -> None:
        with layer.active():
            box = [layer.allocate(64, layer.create_stream())]
            box[0].handed_out(0x7F00)

            def work(handle: int) -> bool:
                box.clear()
                gc.collect()
                return True

            assert layer.capture(work) is not None
        assert [call[0] for call in fake.calls] == ["begin", "record", "stream 2", "free", "end", "close"]

    def test_pages_are_locked_and_freed_beside_the_recordings_of_others(
        self, fake: fake_core.FakeCore, layer: Any
    ) -> None:
        with layer.active():
            memory = layer.allocate_host(64)
        assert list(fake.pages) == [memory.address]
        del memory
        gc.collect()
        assert (fake.pages, fake.modes, fake.mode) == ({}, ["RELAXED", "RELAXED"], "GLOBAL")
        fake.out_of_memory = True
        with layer.active(), pytest.raises(DeviceMemoryError, match="locking 99 bytes"):
            layer.allocate_host(99)

    def test_memory_is_freed_beside_the_recordings_of_others(self, fake: fake_core.FakeCore, layer: Any) -> None:
        _hand_out(layer, 1, 5)
        assert (fake.modes, fake.mode) == (["RELAXED"] * 3, "GLOBAL")

    @pytest.mark.parametrize("failing", [True, False])
    def test_a_recording_ends_in_any_case(self, fake: fake_core.FakeCore, layer: Any, failing: bool) -> None:
        def work(handle: int) -> bool:
            if failing:
                raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            return False

        with layer.active():
            if failing:
                with pytest.raises(BackendError, match="INVALIDATED"):
                    layer.capture(work)
            else:
                assert layer.capture(work) is None
            assert fake.calls == [("begin", "thread_local"), ("end",), ("close",)]
            fake.calls.clear()
            assert layer.capture(lambda handle: True) is not None

    def test_streams_of_others(self, fake: fake_core.FakeCore, layer: Any) -> None:
        with layer.active():
            event = layer.create_stream().record()
            for handle in (1, 2, 0x7F00):
                layer.make_wait(handle, event)
        assert [call[0] for call in fake.calls] == ["legacy", "per thread", "0x7f00"]

    def test_copies_and_no_memory(self, fake: fake_core.FakeCore, layer: Any) -> None:
        with layer.active():
            layer.copy(10, 20, 5, layer.create_stream())
            assert fake.calls == [("copy", 10, 20, 5, "stream 2")]
            fake.out_of_memory = True
            with pytest.raises(DeviceMemoryError, match=r"allocating 99 bytes on cuda:0"):
                layer.allocate(99, layer.create_stream())


def _hand_out(layer: Any, *streams: int | None) -> int:
    """Memory that consumers on these streams had, and that nobody has any more; its address."""
    with layer.active():
        memory = layer.allocate(64, layer.create_stream())
    for stream in streams:
        memory.handed_out(stream)
    address = int(memory.address)
    del memory
    gc.collect()
    return address


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cuda-core's stubs where mypy finds them: the package chooses its folder when it is imported."""
    found = FOLDER
    folder = tmp_path_factory.mktemp("stubs") / "cuda" / "core"
    for file in (found / "cu13").rglob("*.py*"):
        if file.suffix in (".py", ".pyi"):
            target = folder / file.relative_to(found / "cu13")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    lines = (found / "__init__.py").read_text().splitlines()
    (folder / "__init__.py").write_text(
        "\n".join(line for line in lines if line.startswith(("from cuda", "import cuda")))
    )
    memory = folder / "_memory" / "__init__.py"
    memory.write_text(re.split(r"^__all__ = \[", memory.read_text(), flags=re.MULTILINE)[0])
    (folder.parents[1] / "mypy.ini").write_text(
        "[mypy]\npython_version = 3.11\nstrict = True\nexplicit_package_bases = True\nwarn_unused_ignores = False\n"
        f"mypy_path = {ROOT / 'runtime'}:{folder.parents[1]}\nuntyped_calls_exclude = cuda\n"
        "[mypy-cuda.*]\nignore_errors = True\nignore_missing_imports = True\n"
    )
    return folder.parents[1]


def _mypy(stubs: Path, *paths: Path) -> str:
    options = ["--config-file", str(stubs / "mypy.ini"), "--cache-dir", str(stubs / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        cwd=stubs,
    )
    return done.stdout + done.stderr


def test_every_use_of_cuda_core_agrees_with_its_stubs(stubs: Path) -> None:
    pytest.importorskip("mypy")
    if not (FOLDER / "cu13").is_dir():
        pytest.skip("this cuda-core has no folder cu13")
    wrong = stubs / "wrong.py"
    wrong.write_text("from cuda.core import Device\nDevice(0).allocate(8, stream='x')\nDevice(0).create_strem()\n")
    found = _mypy(stubs, ROOT / "runtime" / "coda_runtime" / "backends" / "cuda", wrong)
    errors = [line for line in found.splitlines() if ": error:" in line]
    assert [line for line in errors if "coda_runtime/backends/cuda/" in line.replace("\\", "/")] == []
    assert len([line for line in errors if "wrong.py" in line]) == 2, f"the stubs are not read: {found}"


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
