"""A loaded engine, run from many threads: each takes an executor of its batch's profile for the time of its call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DeviceMemoryError, InputError
from ...format.profiles import Batch, BatchSizes, choose_profile, profile_text, profiles_text, span
from ..base import DeviceArray
from ..cuda.array import CudaArray
from ..cuda.dlpack import Kept, borrow
from ..cuda.layer import DeviceLayer, Stream
from ..cuda.staging import StagingPool
from .engine import Engine
from .executor import Executor
from .pool import ExecutorPool, closed_error

MAX_EXECUTORS = 4
"""Executors of one profile: further threads wait. Each has the profile's scratch memory once more."""


class TensorRTSession:
    """Implements `DeviceSession` and `ProfiledSession`. Tests run it on a stand-in for the driver.

    `device` is "cuda:N", `profiles` are the engine's, and `batch` spans them. `max_executors` is how many threads run
    at once in one profile. Each profile has executors of its own, and takes memory once it is used.
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
        self.profiles = engine.profiles
        self.batch = span(engine.profiles)
        self._engine = engine
        self._layer = layer
        self._library = library
        self._staging = staging or StagingPool(layer)
        self._kept = Kept()
        self._dlpack_stream: Stream | None = None
        self._pools = [
            ExecutorPool(engine, index, layer, self._staging, max_executors) for index in range(len(engine.profiles))
        ]
        for pool in self._pools:
            pool.larger = sorted(
                (other for other in self._pools if other.batch[2] > pool.batch[2]), key=lambda other: -other.batch[2]
            )
        self._change = threading.Lock()
        self._closed = False

    @property
    def graphs(self) -> Mapping[int, tuple[str, ...]]:
        """For each batch size that is to have a CUDA graph, per executor: whether it is recorded, or why not."""
        pools = {count: self._pool(count) for profile in self.profiles for count in profile}
        return {count: pool.graphs(count) for count, pool in sorted(pools.items()) if count in pool.batch}

    @property
    def max_executors(self) -> int:
        """How many threads run at once, each in the profile of its batch."""
        return sum(pool.max_executors for pool in self._pools)

    @property
    def executors(self) -> int:
        """How many executors there are."""
        return sum(map(len, self._pools))

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the engine and return its output, a new array.

        Raises InputError for a shape, dtype or batch that the engine does not take, DeviceMemoryError, BackendError,
        ClosedError.
        """
        self._check(batch.shape, batch.dtype)
        with self._executor(len(batch)) as executor:
            out = executor.run(batch)
            self._kept.collect()
            return out

    def put(self, batch: npt.NDArray[Any]) -> CudaArray:
        """Copy an array to this GPU. Returns before the copy is done; `batch` may be changed at once.

        Raises DeviceMemoryError, BackendError, ClosedError.
        """
        # Any profile's executor can: that which is going to run it, if one does.
        count = len(batch) if choose_profile(self.profiles, len(batch)) is not None else self.profiles[0][0]
        with self._executor(count) as executor:
            return executor.put(batch)

    def take(self, array: Any) -> CudaArray:
        """Take an array of any library that speaks DLPack, on this GPU: without a copy, in stream order.

        Raises DeviceError for an array on another device, InputError for one that is not C-contiguous or of a dtype
        that numpy lacks, ClosedError.
        """
        with self._layer.active():
            with self._change:
                if self._closed:
                    raise closed_error(self._engine.name)
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
        with self._executor(checked.shape[0]) as executor:
            self._kept.collect()
            return executor.run_on_device(checked)

    def close(self) -> None:
        """Free the contexts, graphs, buffers and the engine. Arrays that were returned stay. May be called twice."""
        with self._change:
            if self._closed:
                return
            self._closed = True
        with self._layer.active():
            for pool in self._pools:
                pool.close()
            self._kept.collect()
            self._engine.close()

    def __del__(self) -> None:
        # TensorRT frees its memory on whatever GPU is current, so it must not be left to the garbage collector.
        if not sys.is_finalizing() and hasattr(self, "_closed"):
            self.close()

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        wanted = self._engine.input
        if dtype != wanted.dtype or len(shape) != 1 + len(wanted.shape) or tuple(shape[1:]) != wanted.shape:
            raise InputError(
                f"{self._engine.name} got {dtype} {list(shape)}; expected {wanted.dtype} "
                f"[B, {', '.join(map(str, wanted.shape))}]"
            )
        self._pool(shape[0])

    @contextmanager
    def _executor(self, count: int) -> Iterator[Executor]:
        """Yield an executor of the profile that a batch of `count` images runs in."""
        pool = self._pool(count)
        with self._layer.active(), self._explained(pool.batch), pool.executor() as executor:
            yield executor

    def _pool(self, count: int) -> ExecutorPool:
        index = choose_profile(self.profiles, count)
        if index is None:
            raise InputError(f"{self._engine.name} got a batch of {count}; it was built for {self._built_for()}")
        return self._pools[index]

    def _built_for(self) -> str:
        """Return the batches that the engine takes, and the way to others."""
        build = f"coda build BUNDLE --engine {self._library} --batch MIN,OPT,MAX"
        if len(self.profiles) == 1:
            low, best, high = self.batch
            return f"batches from {low} to {high}, best {best}: use such batches, or build it for others: {build}"
        return (
            f"batches {BatchSizes.of(self.profiles)}, in the profiles {profiles_text(self.profiles)}: use such "
            f"batches, or build it with a profile more: {build} for each"
        )

    @contextmanager
    def _explained(self, batch: Batch) -> Iterator[None]:
        """Explain errors: smaller batches of a profile do not help, since its memory is for the largest."""
        try:
            yield
        except DeviceMemoryError as error:
            what = str(error).rpartition("; ")[0] or str(error)
            whole = len(self.profiles) == 1
            where = "" if whole else f" in the profile {profile_text(batch)}"
            raise DeviceMemoryError(
                f"{what}; {self._engine.name} holds memory for batches of {batch[2]}{where}, whatever the batch: build "
                f"it with a smaller MAX: coda build BUNDLE --engine {self._library} --batch MIN,OPT,MAX, or free "
                "memory: `nvidia-smi` lists who holds it"
            ) from error
