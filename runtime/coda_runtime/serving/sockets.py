"""Ports, taken before anything else is begun: what a second server is told, it is told at once."""

from __future__ import annotations

import os
import socket
from typing import Any

from ..errors import CodaError, one_line
from .options import ServeOptions

_BACKLOG = 2048  # connections that wait to be accepted


def listen(options: ServeOptions) -> socket.socket:
    """Return a socket that listens for HTTP; gRPC's port is tried too. Raises CodaError if one is taken."""
    # gRPC itself says why it cannot listen only in a log line of its own.
    _listen("gRPC", options.host, options.grpc_port).close()
    return _listen("HTTP", options.host, options.http_port)


def bind_grpc(server: Any, options: ServeOptions) -> str:
    """Give the gRPC server its port, and return its address. Raises CodaError."""
    try:
        port: int = server.add_insecure_port(address(options.host, options.grpc_port))
    except RuntimeError as error:
        raise _taken("gRPC", options.host, options.grpc_port, one_line(error)) from error
    return address(options.host, port)


def address(host: str, port: int) -> str:
    """Return "host:port", with the brackets that IPv6 needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(what: str, host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _taken(what, host, port, one_line(error)) from error
    return listener


def _taken(what: str, host: str, port: int, why: str) -> CodaError:
    return CodaError(
        f"{what} cannot listen on {address(host, port)} ({why}); stop what is listening there, or choose another "
        f"--{what.lower()}-port or --host"
    )
