"""Streams, events and graphs of cuda.core behind the layer's protocols."""

from __future__ import annotations

from cuda.core import Event, Stream
from cuda.core.graph import Graph

from . import layer
from .failures import failures


class CudaEvent:
    """See layer.Event."""

    def __init__(self, raw: Event) -> None:
        self.raw = raw

    def is_done(self) -> bool:
        """See layer.Event."""
        with failures("asking for an event"):
            return bool(self.raw.is_done)

    def sync(self) -> None:
        """See layer.Event."""
        with failures("waiting for the GPU"):
            self.raw.sync()


class CudaStream:
    """See layer.Stream. Destroyed with its last owner: memory keeps the stream that it is freed on."""

    def __init__(self, raw: Stream) -> None:
        self.raw = raw

    @property
    def handle(self) -> int:
        """See layer.Stream."""
        return int(self.raw.handle)

    def record(self) -> CudaEvent:
        """See layer.Stream."""
        with failures("recording an event"):
            return CudaEvent(self.raw.record())

    def wait(self, event: layer.Event) -> None:
        """See layer.Stream."""
        assert isinstance(event, CudaEvent)  # noqa: S101 - for the type checker: a layer's parts go together
        with failures("waiting for an event"):
            self.raw.wait(event.raw)

    def sync(self) -> None:
        """See layer.Stream."""
        with failures("waiting for the GPU"):
            self.raw.sync()


class CudaGraph:
    """See layer.Graph. What it reads and writes must outlive it: a graph owns no memory."""

    def __init__(self, raw: Graph) -> None:
        self.raw = raw

    def launch(self, stream: layer.Stream) -> None:
        """See layer.Graph."""
        assert isinstance(stream, CudaStream)  # noqa: S101 - see CudaStream.wait
        with failures("starting a CUDA graph"):
            self.raw.launch(stream.raw)
