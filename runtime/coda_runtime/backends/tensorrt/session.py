"""A loaded engine, run from many threads: each takes an executor for the time of its call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ClosedError, DeviceMemoryError, InputError
from ..base import DeviceArray
from ..cuda.array import CudaArray
from ..cuda.dlpack import Kept, borrow
from ..cuda.layer import DeviceLayer, Stream
from ..cuda.staging import StagingPool
from .engine import Engine
from .executor import Executor

MAX_EXECUTORS = 4
"""Executors of one session: further threads wait. Each has the engine's scratch memory once more."""


class TensorRTSession:
    """Implements `DeviceSession`. Its logic is tested with the host's memory.

    `device` is "cuda:N", `batch` the engine's (min, opt, max), `max_executors` how many threads run at once: it falls
    to the number there is when the GPU's memory does not suffice for one more.
    """

    def __init__(
        self,
        engine: Engine,
        layer: DeviceLayer,
        *,
        library: str,
        max_executors: int = MAX_EXECUTORS,
        staging: StagingPool | None = None,
    ) -> None:
        self.device = f"cuda:{layer.index}"
        self.batch = engine.batch
        self.max_executors = max_executors
        self._engine = engine
        self._layer = layer
        self._library = library
        self._staging = staging or StagingPool(layer)
        self._kept = Kept()
        self._dlpack_stream: Stream | None = None
        self._change = threading.Condition()
        self._executors: list[Executor] = []
        self._free: list[Executor] = []
        self._making = 0
        self._closed = False

    @property
    def graphs(self) -> Mapping[int, tuple[str, ...]]:
        """For each batch size that is to have a CUDA graph, per executor: whether it is recorded, or why not."""
        with self._change:
            executors = [executor.graphs for executor in self._executors]
        return {count: tuple(states[count] for states in executors) for count in sorted(set(self.batch))}

    @property
    def executors(self) -> int:
        """How many executors there are."""
        with self._change:
            return len(self._executors)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the engine and return its output, a new array.

        Raises InputError for a shape, dtype or batch that the engine does not take, DeviceMemoryError, BackendError,
        ClosedError.
        """
        self._check(batch.shape, batch.dtype)
        with self._executor() as executor:
            out = executor.run(batch)
            self._kept.collect()
            return out

    def put(self, batch: npt.NDArray[Any]) -> CudaArray:
        """Copy an array to this GPU. Returns before the copy is done; `batch` may be changed at once.

        Raises DeviceMemoryError, BackendError, ClosedError.
        """
        with self._executor() as executor:
            return executor.put(batch)

    def take(self, array: Any) -> CudaArray:
        """Take an array of any library that speaks DLPack, on this GPU: without a copy, in stream order.

        Raises DeviceError for an array on another device, InputError for one that is not C-contiguous or of a dtype
        that numpy lacks, ClosedError.
        """
        with self._layer.active():
            with self._change:
                if self._closed:
                    raise self._closed_error()
                if self._dlpack_stream is None:
                    self._dlpack_stream = self._layer.create_stream()
                stream = self._dlpack_stream
            self._kept.collect()
            return borrow(array, self._layer, stream, self._staging, self._kept)

    def run_on_device(self, batch: npt.NDArray[Any] | DeviceArray) -> CudaArray:
        """Do as `run` does, with the output left on the GPU, in memory of its own. Returns before the work is done.

        `batch` is a numpy array, or what `take` takes: it is copied once, inside the GPU, and held until the session's
        next call.
        """
        checked = batch if isinstance(batch, np.ndarray) else self.take(batch)
        self._check(checked.shape, checked.dtype)
        with self._executor() as executor:
            self._kept.collect()
            return executor.run_on_device(checked)

    def close(self) -> None:
        """Free the contexts, graphs, buffers and the engine. Arrays that were returned stay. May be called twice."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            executors, self._executors, self._free = self._executors, [], []
            self._change.notify_all()
        with self._layer.active():
            for executor in executors:
                executor.close()
            executors.clear()
            self._kept.collect()
            self._engine.close()

    def __del__(self) -> None:
        # TensorRT frees its memory on whatever GPU is current, so it must not be left to the garbage collector.
        if not sys.is_finalizing() and hasattr(self, "_closed"):
            self.close()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self._engine.name} is closed; load the bundle again with coda_runtime.load")

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        wanted, (low, best, high) = self._engine.input, self.batch
        if dtype != wanted.dtype or len(shape) != 1 + len(wanted.shape) or tuple(shape[1:]) != wanted.shape:
            raise InputError(
                f"{self._engine.name} got {dtype} {list(shape)}; expected {wanted.dtype} "
                f"[B, {', '.join(map(str, wanted.shape))}]"
            )
        if not low <= shape[0] <= high:
            raise InputError(
                f"{self._engine.name} got a batch of {shape[0]}; it was built for batches from {low} to {high}, best "
                f"{best}: use such batches, or build it for others: "
                f"coda build BUNDLE --engine {self._library} --batch MIN,OPT,MAX"
            )

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        with self._layer.active(), self._explained():
            executor = self._acquire()
            try:
                yield executor
            finally:
                with self._change:
                    # Last in, first out: the executor that ran last has its graphs, and the others may stay unused.
                    self._free.append(executor)
                    self._change.notify()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain errors: smaller batches do not help, since an executor's memory is for the largest."""
        try:
            yield
        except DeviceMemoryError as error:
            what = str(error).rpartition("; ")[0] or str(error)
            raise DeviceMemoryError(
                f"{what}; {self._engine.name} holds memory for batches of {self.batch[2]}, whatever the batch: build "
                f"it with a smaller MAX: coda build BUNDLE --engine {self._library} --batch MIN,OPT,MAX, or free "
                "memory: `nvidia-smi` lists who holds it"
            ) from error

    def _acquire(self) -> Executor:
        while True:
            with self._change:
                while not self._free and len(self._executors) + self._making >= self.max_executors and not self._closed:
                    self._change.wait()
                if self._closed:
                    raise self._closed_error()
                if self._free:
                    return self._free.pop()
                self._making += 1
            executor = None
            try:
                executor = Executor(self._engine, self._layer, self._staging)
            except DeviceMemoryError:
                with self._change:
                    if not self._executors:
                        raise
                    self.max_executors = len(self._executors)
            finally:
                with self._change:
                    self._making -= 1
                    if executor is not None:
                        self._executors.append(executor)
                    self._change.notify_all()
            if executor is not None:
                return executor
