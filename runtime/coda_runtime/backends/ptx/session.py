"""The compiled quantizer, loaded: latents to ids by a fixed list of launches, recorded once for every batch size."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import ClosedError, CodaError, InputError, one_line
from ...format.parts import IDS, LATENT
from ...format.spec import Spec
from ..base import DeviceArray
from ..cuda.array import CudaArray
from ..cuda.dlpack import Kept, borrow
from ..cuda.layer import DeviceLayer, Graph, Memory
from ..cuda.staging import StagingPool
from ..cuda.transfers import FIRST, RECORDED, Transfers
from . import Kernel, KernelSet, Launch, Plan, make_plan

MAX_BATCH = 64
"""The largest batch: the buffers are made for it when the bundle is loaded."""


class Launcher(Protocol):
    """Starts kernels."""

    programs: int
    """Blocks of the search that fill the GPU: see make_plan."""

    def places(self, kernel: Kernel) -> int:
        """Return how many blocks of a kernel the GPU runs at once. The session asks in the layer's context."""
        ...

    def launch(self, launch: Launch, values: Sequence[int | float], stream: int) -> None:
        """Queue one kernel on the stream of that handle; `values` are its arguments, addresses in place of names."""
        ...


class PtxSession:
    """Implements `DeviceSession`: latent float32 [B, C, h, w] -> ids int32 [B, L].

    Calls of several threads take turns. The first batch of a size is launched kernel by kernel, since a driver may load
    a kernel when it is first launched, which must not fall into a recording; the second is recorded.
    """

    def __init__(
        self,
        kernels: KernelSet,
        spec: Spec,
        tables: Mapping[str, npt.NDArray[Any]],
        layer: DeviceLayer,
        launcher: Launcher,
        *,
        eps: float = 0.0,
        max_batch: int = MAX_BATCH,
    ) -> None:
        self.device = f"cuda:{layer.index}"
        self.batch = (1, min(8, max_batch), max_batch)
        self._spec, self._shape = spec, LATENT.row(spec)
        self._layer, self._launcher, self._staging = layer, launcher, StagingPool(layer)
        self._lock = threading.Lock()
        self._closed = False
        self._graphs: dict[int, Graph] = {}
        self._states: dict[int, str] = {}
        self._kept = Kept()
        with layer.active():
            places = {it.entry: launcher.places(it) for it in kernels.kernels if it.function == "screen"}
        self._plans: list[Plan] = [
            make_plan(kernels, spec, count, eps=eps, programs=launcher.programs, places=places)
            for count in range(1, max_batch + 1)
        ]
        # A larger batch splits the table less, so that the largest batch's partial scores are not the most.
        sizes = {name: max(plan.buffers[name].bytes for plan in self._plans) for name in self._plans[0].buffers}
        with layer.active():
            self._stream = layer.create_stream()
            self._transfers = Transfers(layer, self._staging, self._stream)
            self._memory: dict[str, Memory] = {
                name: layer.allocate(nbytes, self._stream) for name, nbytes in sizes.items()
            }
            # Tables are copied once: their page-locked memory is not kept.
            once = Transfers(layer, StagingPool(layer), self._stream)
            for name, table in tables.items():
                self._memory[name] = layer.allocate(table.nbytes, self._stream)
                once.put(table, self._memory[name].address)
            self._stream.sync()

    @property
    def graphs(self) -> Mapping[int, str]:
        """For every batch size that has run: whether its CUDA graph is recorded, or why there is none."""
        return dict(sorted(self._states.items()))

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn latents into ids, both in host memory.

        Raises InputError, DeviceMemoryError, BackendError, ClosedError.
        """
        self._check(batch.shape, batch.dtype)
        with self._turn():
            self._transfers.put(batch, self._memory["latent"].address)
            self._execute(len(batch))
            ids = self._transfers.fetch(*self._ids(len(batch)))
            self._kept.collect()
            return ids

    def put(self, batch: npt.NDArray[Any]) -> CudaArray:
        """Copy an array to this GPU. Returns before the copy is done; `batch` may be changed at once.

        Raises DeviceMemoryError, BackendError, ClosedError.
        """
        with self._turn():
            return self._transfers.copy_in(batch)

    def take(self, array: Any) -> CudaArray:
        """Take an array of any library that speaks DLPack, on this GPU: without a copy, in stream order.

        Raises DeviceError for an array on another device, InputError for one that is not C-contiguous or of a dtype
        that numpy lacks, ClosedError.
        """
        with self._turn():
            self._kept.collect()
            return borrow(array, self._layer, self._stream, self._staging, self._kept)

    def run_on_device(self, batch: npt.NDArray[Any] | DeviceArray) -> CudaArray:
        """Do as `run` does, with the ids left on the GPU, in memory of their own. Returns before the work is done.

        `batch` is a numpy array, or what `take` takes: it is copied once, inside the GPU, and held until the session's
        next call.
        """
        checked = batch if isinstance(batch, np.ndarray) else self.take(batch)
        self._check(checked.shape, checked.dtype)
        with self._turn():
            self._kept.collect()
            # A graph reads where it was recorded to read, so an array on the GPU is copied there.
            self._transfers.put(checked, self._memory["latent"].address)
            self._execute(checked.shape[0])
            return self._transfers.copy_out(*self._ids(checked.shape[0]))

    def close(self) -> None:
        """Free tables, buffers and graphs. Arrays that were returned stay. May be called twice."""
        with self._lock, self._layer.active():
            if self._closed:
                return
            self._closed = True
            self._transfers.finish()
            self._graphs.clear()
            self._memory.clear()
            self._kept.collect()
            self._transfers.give_back()

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if dtype != LATENT.dtype or tuple(shape[1:]) != self._shape or not 1 <= shape[0] <= self.batch[2]:
            row = ", ".join(map(str, self._shape))
            raise InputError(
                f"the quantizer got {dtype} {list(shape)}; expected {LATENT.dtype} [B, {row}] with B from 1 to "
                f"{self.batch[2]}"
            )

    def _ids(self, count: int) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        return self._memory["ids"].address, IDS.shape(self._spec, count), IDS.dtype

    def _execute(self, count: int) -> None:
        state = self._states.get(count)
        if state == FIRST:
            self._states[count] = self._record(count)
        if count in self._graphs:
            self._graphs[count].launch(self._stream)
            return
        self._launch_all(count, self._stream.handle)
        self._states.setdefault(count, FIRST)

    def _record(self, count: int) -> str:
        try:
            graph = self._layer.capture(lambda stream: self._launch_all(count, stream))
        except CodaError as error:
            return f"none: {one_line(error)}"
        if graph is None:
            return "none: nothing was recorded"
        self._graphs[count] = graph
        return RECORDED

    def _launch_all(self, count: int, stream: int) -> bool:
        for launch in self._plans[count - 1].launches:
            values = [self._memory[value].address if isinstance(value, str) else value for value in launch.arguments]
            self._launcher.launch(launch, values, stream)
        return True

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock, self._layer.active():
            if self._closed:
                raise ClosedError("the quantizer is closed; load the bundle again with coda_runtime.load")
            with self._transfers.settled():
                yield
