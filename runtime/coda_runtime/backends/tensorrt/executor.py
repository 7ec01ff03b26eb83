"""One executor of an engine's profile: a stream, buffers, contexts and CUDA graphs, used by one thread at a time.

A graph is valid as long as the context it was recorded from is not changed, and other batches change a context. So each
size that has a graph has a context of its own, and all contexts of an executor share one scratch memory: they work one
after the other on one stream. The first batch of a size runs without a graph, as TensorRT needs; the second records it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CodaError, one_line
from ..cuda.array import CudaArray
from ..cuda.layer import DeviceLayer, Graph
from ..cuda.staging import StagingPool
from ..cuda.transfers import FIRST, RECORDED, Transfers
from .engine import Engine


@dataclass
class _Size:
    """A batch size that gets a graph."""

    context: Any = None
    graph: Graph | None = None
    state: str = FIRST


@dataclass
class _Plain:
    """The context for all other sizes."""

    context: Any = None
    count: int = 0


class Executor:
    """See the module's docstring. All methods are called inside `layer.active()`, `close` at last.

    `profile` is the index of the batch profile that it runs, and holds memory for. Raises DeviceMemoryError,
    BackendError.
    """

    def __init__(self, engine: Engine, profile: int, layer: DeviceLayer, staging: StagingPool) -> None:
        self._engine = engine
        self._profile = profile
        self._layer = layer
        self.stream = layer.create_stream()
        self._transfers = Transfers(layer, staging, self.stream)
        batch = engine.profiles[profile]
        max_batch = batch[2]
        self._input = layer.allocate(engine.input.nbytes(max_batch), self.stream)
        self._output = layer.allocate(engine.output.nbytes(max_batch), self.stream)
        self._scratch_bytes = engine.scratch_bytes(profile)
        self._scratch = layer.allocate(max(1, self._scratch_bytes), self.stream)
        self._plain = _Plain()
        self._sizes = {count: _Size() for count in batch}

    @property
    def graphs(self) -> dict[int, str]:
        """For each batch size that is to have a graph whether it has one, or why it has none."""
        return {count: size.state for count, size in self._sizes.items()}

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run a checked batch and wait for its output, a new array."""
        with self._transfers.settled():
            self._transfers.put(batch, self._input.address)
            self._execute(len(batch))
            return self._transfers.fetch(*self._out(len(batch)))

    def put(self, batch: npt.NDArray[Any]) -> CudaArray:
        """Queue a copy of an array to memory of its own."""
        with self._transfers.settled():
            return self._transfers.copy_in(batch)

    def run_on_device(self, batch: npt.NDArray[Any] | CudaArray) -> CudaArray:
        """Queue a checked batch; its output has memory of its own."""
        with self._transfers.settled():
            # A graph reads the executor's own input, so an array on the GPU is copied there: once, and inside the GPU.
            self._transfers.put(batch, self._input.address)
            self._execute(batch.shape[0])
            return self._transfers.copy_out(*self._out(batch.shape[0]))

    def close(self) -> None:
        """Wait for what is queued, and let go of everything; others can have the memory then."""
        self._transfers.finish()
        self._sizes.clear()
        self._plain = _Plain()
        del self._input, self._output, self._scratch
        self._transfers.give_back()

    def _out(self, count: int) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        output = self._engine.output
        return self._output.address, (count, *output.shape), output.dtype

    def _execute(self, count: int) -> None:
        size = self._sizes.get(count)
        if size is None or size.state not in (FIRST, RECORDED):
            self._run_plain(count)
            return
        if size.context is None:
            context = self._prepare(count, own=True)
            self._enqueue(context, count)
            size.context = context
            self._engine.keep_kernels()
            return
        if size.graph is None:
            self._record(size)
        if size.graph is None:
            self._run_plain(count)
        else:
            size.graph.launch(self.stream)

    def _record(self, size: _Size) -> None:
        """Record the graph of a size, or write down why there is none."""
        # TensorRT wants a context to be idle before it works on another stream.
        self.stream.sync()
        self._engine.messages.clear()
        able = getattr(size.context, "is_stream_capturable", None)  # of TensorRT-RTX only
        try:
            if able is not None and not able(self.stream.handle):
                size.state = "none: TensorRT says that it cannot be recorded"
            else:
                size.graph = self._layer.capture(lambda handle: bool(size.context.execute_async_v3(handle)))
                reason = f"none: TensorRT did not run while it was recorded ({self._engine.messages.first()})"
                size.state = RECORDED if size.graph is not None else reason
        except (CodaError, RuntimeError) as error:
            size.state = f"none: {one_line(error)}"
        if size.graph is None:
            size.context = None

    def _run_plain(self, count: int) -> None:
        plain = self._plain
        if plain.context is None or plain.count != count:
            # TensorRT does not say that a context may be changed while its work is queued.
            self.stream.sync()
            plain.context = self._prepare(count, plain.context)
            plain.count = count
        self._enqueue(plain.context, count)

    def _prepare(self, count: int, context: Any = None, *, own: bool = False) -> Any:
        """Return a context, new or given, set to a batch size and the executor's buffers."""
        engine = self._engine
        if context is None:
            memory = (self._scratch.address, self._scratch_bytes)
            context = engine.create_context(self._profile, self.stream, count if own else None, *memory)
        failed = f"{engine.name} does not take a batch of {count}"
        with engine.messages.calls(failed, engine.rebuild):
            done = (
                context.set_input_shape(engine.input.name, (count, *engine.input.shape))
                and context.set_tensor_address(engine.input.name, self._input.address)
                and context.set_tensor_address(engine.output.name, self._output.address)
                and not context.infer_shapes()
            )
            if not done:
                raise engine.messages.error(failed, engine.rebuild)
        return context

    def _enqueue(self, context: Any, count: int) -> None:
        failed = f"{self._engine.name} failed on a batch of {count}"
        remedy = f"try again; if it stays so: {self._engine.rebuild}"
        with self._engine.messages.calls(failed, remedy):
            if not context.execute_async_v3(self.stream.handle):
                raise self._engine.messages.error(failed, remedy)
