"""Stand-ins for what `device.py` uses of cuda.core and the driver: they write down what was called, in order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

SUCCESS, IMPLICIT, GONE = "SUCCESS", "STREAM_CAPTURE_IMPLICIT", "CONTEXT_IS_DESTROYED"


class Result(str):
    """A result code of the driver."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return f"CUDA_ERROR_{self}"


class FakeEvent:
    def __init__(self, core: FakeCore) -> None:
        self.number = core.events = core.events + 1
        self.handle = f"event {self.number}"
        self.is_done = False

    def sync(self) -> None:
        self.is_done = True


class FakeStream:
    def __init__(self, core: FakeCore, name: str) -> None:
        self.core, self.name, self.handle = core, name, len(name)

    def record(self) -> FakeEvent:
        return FakeEvent(self.core)

    def wait(self, event: Any) -> None:
        self.core.calls.append((self.name, "waits for", event.number))

    def sync(self) -> None:
        self.core.calls.append((self.name, "sync"))


class FakeBuffer:
    def __init__(self, core: FakeCore, address: int, size: int) -> None:
        self.core, self.handle, self.size = core, address, size

    def close(self, stream: Any = None) -> None:
        self.core.calls.append(("free", self.handle, stream.name if stream else None))
        self.core.modes.append(self.core.mode)

    def copy_from(self, source: FakeBuffer, *, stream: Any) -> None:
        self.core.calls.append(("copy", self.handle, source.handle, self.size, stream.name))


class FakeBuilder:
    def __init__(self, core: FakeCore) -> None:
        self.core, self.stream = core, FakeStream(core, "recording")

    def begin_building(self, mode: str) -> None:
        self.core.calls.append(("begin", mode))

    def end_building(self) -> None:
        self.core.calls.append(("end",))

    def complete(self) -> Any:
        return SimpleNamespace(launch=lambda stream: self.core.calls.append(("launch", stream.name)))

    def close(self) -> None:
        self.core.calls.append(("close",))


class FakeCore:
    """A machine whose thread has the context `current`; contexts of its devices are 100 + N.

    `recording` are the handles of streams that a graph is recorded from, `gone` those of streams that are no more.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.events = 0
        self.current = 7
        self.recording: set[int] = set()
        self.gone: set[int] = set()
        self.begins_after = -1  # a recording begins at the stream of this handle once it was asked
        self.mode = "GLOBAL"
        self.modes: list[str] = []
        """The mode of the thread at each call that may break off somebody's recording."""
        self.pages: dict[int, np.ndarray[Any, Any]] = {}
        self.streams = 0
        self.next_address = 4096
        self.out_of_memory = False
        self.driver = SimpleNamespace(
            CUresult=SimpleNamespace(CUDA_SUCCESS=SUCCESS, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT=Result(IMPLICIT)),
            CUstreamCaptureStatus=SimpleNamespace(CU_STREAM_CAPTURE_STATUS_NONE="NONE"),
            CUstreamCaptureMode=SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED="RELAXED"),
            cuCtxGetCurrent=lambda: (SUCCESS, self.current),
            cuCtxSetCurrent=self._set_current,
            cuStreamIsCapturing=self._is_capturing,
            cuEventRecord=self._record,
            cuMemAllocHost=self._lock,
            cuMemFreeHost=self._unlock,
            cuThreadExchangeStreamCaptureMode=self._exchange_mode,
        )

    def Device(self, index: int) -> Any:  # noqa: N802 - cuda.core's name
        def set_current() -> None:
            self.current = 100 + index

        def allocate(size: int, *, stream: Any) -> FakeBuffer:
            if self.out_of_memory:
                raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: no more")
            self.next_address += 4096
            return FakeBuffer(self, self.next_address, size)

        def create_stream(options: Any) -> FakeStream:
            assert options.nonblocking
            self.streams += 1
            return FakeStream(self, f"stream {self.streams}")

        return SimpleNamespace(
            set_current=set_current,
            allocate=allocate,
            create_stream=create_stream,
            create_event=lambda: FakeEvent(self),
            create_graph_builder=lambda: FakeBuilder(self),
        )

    def from_handle(self, address: int, size: int) -> FakeBuffer:
        return FakeBuffer(self, address, size)

    def _set_current(self, context: int) -> tuple[str]:
        self.current = context
        return (SUCCESS,)

    def _is_capturing(self, handle: int) -> tuple[Any, str | None]:
        assert self.current == 100, "asked in another context"
        if handle in self.gone:
            return Result(GONE), None
        if handle == 1 and self.recording:
            return Result(IMPLICIT), None
        answer = "ACTIVE" if handle in self.recording else "NONE"
        if handle == self.begins_after:
            self.recording.add(handle)
        return SUCCESS, answer

    def _record(self, event: str, handle: int) -> tuple[str]:
        self.calls.append(("record", handle, int(event.split()[1])))
        self.modes.append(self.mode)
        return (SUCCESS,)

    def _lock(self, size: int) -> tuple[Any, int | None]:
        if self.out_of_memory:
            return Result("OUT_OF_MEMORY"), None
        self.modes.append(self.mode)
        page = np.zeros(size, np.uint8)
        self.pages[page.ctypes.data] = page
        return SUCCESS, page.ctypes.data

    def _unlock(self, address: int) -> tuple[str]:
        self.modes.append(self.mode)
        del self.pages[address]
        return (SUCCESS,)

    def _exchange_mode(self, mode: str) -> tuple[str, str]:
        before, self.mode = self.mode, mode
        return SUCCESS, before
