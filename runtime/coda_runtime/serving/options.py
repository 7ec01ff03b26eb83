"""What may be set of a server, and the limits that keep its memory bounded."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..format.color import STORED, check_color

MAX_TEXT_BYTES = 8 * 2**20
"""Bytes of JSON, or of a gRPC message without raw contents: as Python's numbers they take many times their size."""
SMALL_TEXT_BYTES = 64 * 2**10
"""JSON up to this is read and written on the event loop: milliseconds at most, and a thread would cost more."""
MAX_TEXTS = 4
"""Requests with more text than that at a time, from reading it to the answer; others wait."""
MAX_HEADER_BYTES = 64 * 2**10
"""Bytes of a request's line and headers."""
MAX_CONNECTIONS = 1024
"""Connections at a time over each protocol, of clients that send nothing too."""
IDLE_SECONDS = 65
"""After which a connection without a request ends: longer than proxies keep theirs."""


@dataclass(frozen=True)
class ServeOptions:
    """Settings of a server.

    Args:
        host: address to listen at.
        http_port, grpc_port: 0 picks a free port.
        max_batch: images in one run of a device; None is what the tokenizer takes at once.
        max_delay_ms: milliseconds that an incomplete batch may wait for more.
        max_queue: images that may wait for a device.
        max_images: images in one request.
        max_pixels: width times height of one image.
        max_decode_seconds: seconds of a processor for decoding one image.
        max_request_mb: MiB of one request.
        max_requests: requests under way, each of which may hold max_request_mb.
        timeout: seconds for a body to arrive, as many for its answer, and as many for the client to read that.
        color: what the values of image files are taken for, as in `LoadOptions`.
        drain_seconds: seconds that requests under way get when the server is asked to stop.

    Raises:
        InputError: one request may bring more images than may wait, or both ports are the same.
    """

    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int = 8081
    max_batch: int | None = None
    max_delay_ms: float = 2.0
    max_queue: int = 256
    max_images: int = 64
    max_pixels: int = 50_000_000
    max_request_mb: int = 32
    max_requests: int = 64
    timeout: float = 30.0
    drain_seconds: float = 30.0
    color: str = STORED
    max_decode_seconds: float = 10.0

    def __post_init__(self) -> None:
        check_color(self.color)
        if self.max_images > self.max_queue:
            raise InputError(
                f"max-images is {self.max_images} and max-queue {self.max_queue}: a request of that size could never "
                "wait; raise max-queue or lower max-images"
            )
        if self.http_port == self.grpc_port != 0:
            raise InputError(f"http-port and grpc-port are both {self.http_port}; each needs one of its own")

    @property
    def max_request_bytes(self) -> int:
        """`max_request_mb` in bytes."""
        return self.max_request_mb * 2**20
