"""The clients: a process of its own, with bodies that were made before the clock starts."""

from __future__ import annotations

import http.client
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Send = Callable[[], bool]
"""Send one request and wait for its answer; whether it was answered."""


@dataclass(frozen=True)
class Target:
    """What is sent where. `body` is an HTTP body with `json_length` of JSON, or a serialised gRPC request."""

    protocol: str
    address: str
    body: bytes
    json_length: int


@dataclass
class Outcome:
    """What came of a load. Latencies are in seconds; `lost` requests had no answer, or another than their ids."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    lost: int = 0

    def add(self, latency: float, answered: bool) -> None:
        """Count one request."""
        self.latencies.append(latency)
        self.lost += not answered


def prepare(protocol: str, address: str, values: np.ndarray[Any, Any]) -> Target:
    """Prepare a request to encode `values`: uint8 [N,H,W,3], or an object array [N] of image files."""
    datatype = "BYTES" if values.dtype == np.object_ else "UINT8"
    if protocol == "http":
        import tritonclient.http as library
    else:
        import tritonclient.grpc as library
    tensor = library.InferInput("image", list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    if protocol == "http":
        body, length = library.InferenceServerClient.generate_request_body([tensor])
        return Target(protocol, address, body, length)
    message = library.service_pb2.ModelInferRequest(model_name="encode", inputs=[tensor._get_tensor()])
    message.raw_input_contents.append(tensor._get_content())
    return Target(protocol, address, message.SerializeToString(), 0)


def closed_loop(target: Target, clients: int, seconds: float) -> Outcome:
    """Run `clients` of which each sends its next request when it has the answer to the last one."""
    outcome, lock = Outcome(), threading.Lock()
    start = time.perf_counter()

    def client() -> None:
        send = _sender(target)
        while (sent := time.perf_counter()) < start + seconds:
            answered = send()
            with lock:
                outcome.add(time.perf_counter() - sent, answered)

    return _timed(outcome, start, [threading.Thread(target=client) for _ in range(clients)])


def open_loop(target: Target, clients: int, seconds: float, rate: float, seed: int) -> Outcome:
    """Send requests at random moments, `rate` per second on average, whether the server keeps up or not.

    A latency is counted from the moment at which its request was meant to be sent, so that one slow answer is charged
    to all that had to wait for it.
    """
    outcome, lock = Outcome(), threading.Lock()
    gaps = np.random.default_rng(seed).exponential(1 / rate, round(rate * seconds * 1.5) + 100)
    moments: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    start = time.perf_counter()

    def arrive() -> None:
        for moment in start + np.cumsum(gaps):
            if moment >= start + seconds:
                break
            time.sleep(max(0.0, moment - time.perf_counter()))
            moments.put(moment)
        for _ in range(clients):
            moments.put(None)

    def client() -> None:
        send = _sender(target)
        while (moment := moments.get()) is not None:
            answered = send()
            with lock:
                outcome.add(time.perf_counter() - moment, answered)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    return _timed(outcome, start, [threading.Thread(target=arrive), *threads])


def _timed(outcome: Outcome, start: float, threads: list[threading.Thread]) -> Outcome:
    cpu = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcome.seconds, outcome.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return outcome


def _sender(target: Target) -> Send:
    """Open a connection of its own for each client."""
    if target.protocol == "grpc":
        return _grpc_sender(target)
    connection = http.client.HTTPConnection(target.address)
    headers = {"Inference-Header-Content-Length": str(target.json_length)}

    def send() -> bool:
        try:
            connection.request("POST", "/v2/models/encode/infer", target.body, headers)
            with connection.getresponse() as response:
                return b'"ids"' in response.read() and response.status == 200
        except (OSError, http.client.HTTPException):
            connection.close()
            return False

    return send


def _grpc_sender(target: Target) -> Send:
    import grpc

    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(target.address, own_connection)
    # Bytes as they are: the request is serialised already, and the answer is not to be read.
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", lambda body: body, lambda body: body)

    def send() -> bool:
        try:
            return b"ids" in call(target.body)
        except grpc.RpcError:
            return False

    return send
