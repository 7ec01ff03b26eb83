"""TCP connections by their descriptors: what went over them, and their end. gRPC shows no more than the peer's address.

Where the system does not list a process's descriptors, or does not count bytes, nothing is found: see `Waits.enter`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

_OWN_FILES = Path("/dev/fd")
_COUNTS = 120  # where tcpi_bytes_acked and tcpi_bytes_received stand in Linux's struct tcp_info
_Address = tuple[object, int]


def moved(number: int) -> int | None:
    """Return the bytes that the other end has sent and taken so far. None where the system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(fileno=os.dup(number)) as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTS + 16)
    except OSError:
        return None
    # Systems that only look like Linux leave the counts out, or empty.
    return sum(struct.unpack_from("=QQ", info, _COUNTS)) or None if len(info) == _COUNTS + 16 else None


class Connections:
    """The process's own connections, by the address of the other end, "ipv4:127.0.0.1:40000"."""

    def __init__(self) -> None:
        self._numbers: dict[_Address, int] = {}

    def moved(self, peer: str) -> int | None:
        """Return the bytes that a peer has sent and taken so far. None where that is not known."""
        connection = self._copy(peer)
        if connection is None:
            return None
        with connection:
            return moved(connection.fileno())

    def cut(self, peer: str) -> bool:
        """End a peer's connection. False if it is not found."""
        connection = self._copy(peer)
        if connection is None:
            return False
        with connection, suppress(OSError):  # it may have ended by itself
            connection.shutdown(socket.SHUT_RDWR)
        return True

    def _copy(self, peer: str) -> socket.socket | None:
        _, _, where = unquote(peer).partition(":")
        host, _, port = where.rpartition(":")
        try:
            wanted = _plain(host.strip("[]")), int(port)
        except ValueError:
            return None
        found = self._copy_if(wanted)
        if found is None:
            self._look()
            found = self._copy_if(wanted)
        return found

    def _copy_if(self, wanted: _Address) -> socket.socket | None:
        # A copy of the descriptor, then a look at it: the number may be another file's by now.
        with suppress(KeyError, OSError):
            connection = socket.socket(fileno=os.dup(self._numbers[wanted]))
            if _peer(connection) == wanted:
                return connection
            connection.close()
        return None

    def _look(self) -> None:
        self._numbers = {}
        with suppress(OSError):
            for path in list(_OWN_FILES.iterdir()):
                with suppress(OSError, ValueError):
                    number = int(path.name)
                    if stat.S_ISSOCK(os.fstat(number).st_mode):
                        with socket.socket(fileno=os.dup(number)) as connection:
                            address = _peer(connection)
                        if address is not None:
                            self._numbers[address] = number


def _peer(connection: socket.socket) -> _Address | None:
    """Return the address of the other end. None if there is no other end."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        host, port, *_ = connection.getpeername()
    except OSError:
        return None
    return _plain(host), port


def _plain(ip: str) -> object:
    """Return an address, that of IPv4 where IPv6 only carries it."""
    address = ipaddress.ip_address(ip)
    return getattr(address, "ipv4_mapped", None) or address
