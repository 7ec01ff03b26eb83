"""Ports, taken before anything else is begun: what a second server is told, it is told at once.

A host is resolved here, once, so that both protocols listen at the same addresses: gRPC by itself knows others for
"localhost" than the system does, and takes 0.0.0.0 for the addresses of IPv6 too.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from ..errors import CodaError, one_line
from .options import ServeOptions

_BACKLOG = 2048  # connections that wait to be accepted
_ALL = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not listened at
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # as ::1 where the system has no IPv6


class _Address(NamedTuple):
    family: int
    ip: str
    more: tuple[int, ...] = ()  # what IPv6 has behind the port


@contextmanager
def listen(options: ServeOptions) -> Iterator[list[socket.socket]]:
    """Hold sockets that listen for HTTP, all at one port; gRPC's is tried too. Raises CodaError if one is taken."""
    # gRPC itself says why it cannot listen only in a log line of its own.
    for tried in _listen("gRPC", options.host, options.grpc_port):
        tried.close()
    with ExitStack() as stack:
        yield [stack.enter_context(listener) for listener in _listen("HTTP", options.host, options.http_port)]


def allow_files(count: int) -> None:
    """Let the process have `count` files open, or as many as the system lets it: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind_grpc(server: Any, options: ServeOptions, http: list[socket.socket]) -> str:
    """Give the gRPC server its port at the addresses of HTTP, and return where it listens. Raises CodaError."""
    port = options.grpc_port
    for listener in http:
        ip = listener.getsockname()[0]
        try:
            port = server.add_insecure_port(address(ip, port))
        except RuntimeError as error:
            raise _taken("gRPC", ip, port, one_line(error)) from error
    return address(options.host, port)


def address(host: str, port: int) -> str:
    """Return "host:port", with the brackets that IPv6 needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(what: str, host: str, port: int) -> list[socket.socket]:
    """Return sockets at the addresses of a host that this system has; of all addresses it is one socket."""
    found: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as stack:
        try:
            for where in _resolve(host):
                try:
                    found.append(stack.enter_context(_open(where, port)))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
                    continue
                port = found[0].getsockname()[1]  # where any was asked for
                if host in _ALL:
                    break
            if missing is not None and not found:
                raise missing
        except OSError as error:
            raise _taken(what, host, port, one_line(error)) from error
        stack.pop_all()
    return found


def _resolve(host: str) -> list[_Address]:
    if host in _ALL:
        every = [_Address(socket.AF_INET, "0.0.0.0")]  # noqa: S104 - the user says so
        return [_Address(socket.AF_INET6, "::"), *every] if socket.has_dualstack_ipv6() else every
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = [_Address(family, str(at[0]), tuple(at[2:])) for family, _, _, _, at in found]
    return list(dict.fromkeys(addresses))


def _open(where: _Address, port: int) -> socket.socket:
    listener = socket.socket(where.family)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if where.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, where.ip != "::")
        listener.bind((where.ip, port, *where.more))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _taken(what: str, host: str, port: int, why: str) -> CodaError:
    return CodaError(
        f"{what} cannot listen on {address(host, port)} ({why}); stop what is listening there, or choose another "
        f"--{what.lower()}-port or --host"
    )
