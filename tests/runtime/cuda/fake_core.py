"""Stand-ins for what `device.py` uses of cuda.core and the driver: they write down what was called, in order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

SUCCESS, UNSUPPORTED, OTHER = "SUCCESS", "CAPTURE_UNSUPPORTED", "OTHER"


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
    """A machine whose thread has the context `current`; contexts of its devices are 100 + N."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.events = 0
        self.current = 7
        self.everything: str | None = SUCCESS
        self.streams = 0
        self.next_address = 4096
        self.out_of_memory = False
        self.driver = SimpleNamespace(
            CUresult=SimpleNamespace(CUDA_SUCCESS=SUCCESS, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED=UNSUPPORTED),
            cuCtxGetCurrent=lambda: (SUCCESS, self.current),
            cuCtxSetCurrent=self._set_current,
            cuCtxRecordEvent=self._record_everything,
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
            context=SimpleNamespace(handle=100 + index),
            sync=lambda: self.calls.append(("device sync",)),
        )

    def from_handle(self, address: int, size: int) -> FakeBuffer:
        return FakeBuffer(self, address, size)

    def _set_current(self, context: int) -> tuple[str]:
        self.current = context
        return (SUCCESS,)

    def _record_everything(self, context: int, event: str) -> tuple[Result | str]:
        assert (context, self.current) == (100, 100), "the event must be of the device's context"
        if self.everything is None:
            raise RuntimeError("Function cuCtxRecordEvent not found")
        self.calls.append(("everything", int(event.split()[1])))
        return (self.everything if self.everything == SUCCESS else Result(self.everything),)
