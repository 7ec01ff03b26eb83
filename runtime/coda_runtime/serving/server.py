"""The whole server: sockets, loading, both protocols, signals, and the drain at its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from ..errors import CodaError
from ..format.spec import Spec
from ..machine.processors import usable_count
from .admission import Admission
from .batching import Batcher
from .kserve_parts import ModelServer, Plane
from .logs import LineWriter
from .metrics import Metrics
from .models import Decode, Encode, TokenModel
from .options import MAX_CONNECTIONS, ServeOptions
from .replicas import Load, Replicas
from .rest import application, http_server
from .rpc import Service, grpc_server
from .sockets import address, allow_files, bind_grpc

_LOG = logging.getLogger("coda.serve")
_MAX_THREADS = 8  # images in memory in their own size
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FILES = 4 * MAX_CONNECTIONS  # of HTTP, of gRPC, and the engines'
_LAST_SECONDS = (
    1.0  # for answers that gRPC has to send and runs that nobody waits for, when the drain took all its time
)


class TokenServer(ModelServer):  # type: ignore[misc] # kserve has no types
    """kserve's ModelServer with the models of one bundle.

    Args:
        spec: the bundle's.
        load: loads the bundle on a device.
        devices: where to load it; one worker each.
        options: limits and addresses.
        log: where its log is written; the lines that it drops are counted.
    """

    def __init__(
        self, spec: Spec, load: Load, devices: Sequence[str], options: ServeOptions, log: LineWriter | None = None
    ) -> None:
        super().__init__(enable_latency_logging=False)
        self.dataplane = Plane(self.registered_models)
        self._load, self._devices, self._options = load, devices, options
        self._metrics = Metrics()
        if log is not None:
            log.count_dropped(self._metrics.dropped_lines.inc)
        self._pool = ThreadPoolExecutor(min(_MAX_THREADS, usable_count()), "coda-prepare")
        self._models: list[TokenModel] = [
            Encode("encode", spec, options, self._pool, self._metrics.ignored_profiles),
            Decode("decode", spec, options, self._pool),
        ]
        for model in self._models:
            self.register_model(model)
        self._replicas: Replicas | None = None
        self._batcher: Batcher | None = None

    def start(self, http_sockets: list[socket.socket]) -> None:
        """Serve until SIGTERM or SIGINT, HTTP on these sockets. Raises CodaError: a bundle that does not load."""
        allow_files(_FILES)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve_on(http_sockets))

    async def _serve_on(self, http_sockets: list[socket.socket]) -> None:
        admission = Admission(self._options, self._metrics)
        rpc = grpc_server(Service(self.dataplane, admission, self._pool), self._options)
        port = http_sockets[0].getsockname()[1]
        listening = {
            "http": address(self._options.host, port),
            "grpc": bind_grpc(rpc, self._options, http_sockets),
        }
        http = http_server(application(self.dataplane, admission, self._options, self._pool), self._options)
        stop = _stop_on_signals()
        serving = asyncio.create_task(http.serve(sockets=http_sockets))
        await rpc.start()
        _LOG.info("listening", extra={"fields": listening})
        opening = asyncio.create_task(self._open(admission))
        try:
            await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                opening.result()
                await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opening.cancel()
            end = time.monotonic() + self._options.drain_seconds
            drained = await self._shut(admission)
            http.should_exit = True
            await rpc.stop(grace=_left(end))  # what it has been given to send
            await serving
            self._end(drained, _left(end))
        if not drained:
            raise CodaError(
                f"requests were still in progress after {self._options.drain_seconds:g} s and were cut off; give them "
                "more time: --drain-seconds"
            )

    async def _open(self, admission: Admission) -> None:
        """Load and warm up, while the server tells that it lives and is not ready."""
        batcher = await asyncio.get_running_loop().run_in_executor(self._pool, self._start)
        for model in self._models:
            model.batcher, model.ready = batcher, True
        self.dataplane.is_ready = True
        admission.open()
        assert self._replicas is not None  # noqa: S101 - _start made them
        parts = [f"{a.part} {a.precision} {a.device}" for tok in self._replicas.tokenizers for a in tok.artifacts]
        _LOG.info("ready", extra={"fields": {"max_batch": batcher.max_batch, "artifacts": parts}})

    def _start(self) -> Batcher:
        self._replicas = Replicas(self._load, self._devices)
        max_batch = self._options.max_batch or self._replicas.images_per_run
        self._replicas.warm_up(max_batch)
        self._batcher = Batcher(
            self._replicas.runs,
            max_batch=max_batch,
            max_delay=self._options.max_delay_ms / 1e3,
            max_waiting=self._options.max_queue,
            observe=self._metrics.batch,
        )
        self._metrics.queue_images.set_function(lambda: self._batcher.waiting if self._batcher else 0)
        return self._batcher

    async def _shut(self, admission: Admission) -> bool:
        """Refuse new requests, and wait for those under way. False if some are left."""
        self.dataplane.is_ready = False
        for model in self._models:
            model.ready = False
        admission.shut()
        if self._batcher is not None:
            self._batcher.hurry()
        _LOG.info("stopping", extra={"fields": {"requests_under_way": admission.active}})
        return await admission.idle(self._options.drain_seconds)

    def _end(self, drained: bool, seconds: float) -> None:
        self._pool.shutdown(wait=drained, cancel_futures=True)
        # A run may hang, its requests timed out long ago; nothing is freed under it, and it keeps nobody from ending.
        if self._batcher is not None and not self._batcher.close(drain=False, timeout=seconds):
            _LOG.warning("a device still runs a batch that nobody waits for; it is left to the system")
        elif self._replicas is not None:
            self._replicas.close()


def _left(end: float) -> float:
    """Return the seconds until `end`, a time.monotonic(), and `_LAST_SECONDS` at least."""
    return max(_LAST_SECONDS, end - time.monotonic())


def _stop_on_signals() -> asyncio.Task[bool]:
    """Return a task that ends at the first SIGTERM or SIGINT; the second one ends the process at once."""
    asked = asyncio.Event()

    def stop() -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(stop))
    return asyncio.create_task(asked.wait())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the fastest event loop that is installed, as uvicorn chooses it."""
    return uvicorn.Config("", log_config=None).get_loop_factory()
