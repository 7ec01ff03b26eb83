"""What a server in the Hub's place may answer: plain names, not packed, no more than was expected, and in time.

huggingface_hub names files after what a server sends, writes whatever comes, and waits for each next byte anew.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from ..errors import HubError
from ..format.manifest import MAX_BYTES
from ..io.counts import count
from ..io.remote import redacted
from .names import COMMIT, HubName

_NO_NAME = r"/\\\x00-\x1f\x7f" + (":" if sys.platform == "win32" else "")  # a drive there, or a stream of a file
_FILE = re.compile(f"[^.{_NO_NAME}][^{_NO_NAME}]{{0,199}}")
"""A name that stays in its folder."""

_SLOW_AFTER, _SLOW_READS = 60.0, 4
_SLOWEST = 1024
"""An answer is too slow that brings less than 1 KiB a second, over 60 s of waiting for it; the first bytes may take as
long as huggingface_hub waits for them."""
_MAX_HEADERS = 1 << 20
"""Bytes before an answer begins: provisional ones (100 Continue) may come without end."""
_MAX_PAUSE = 300
"""Seconds: the Hub's own limits of requests are counted over so long."""


class _Watch:
    """What is asked of one repository at a time, how many bytes may come for it, and how fast they do."""

    def __init__(self, name: HubName, max_bytes: int) -> None:
        self.name, self.max_bytes = name, max_bytes
        self.begin("")

    def begin(self, url: str) -> None:
        """Note that something is asked for."""
        self.url = redacted(url)
        self.in_headers = True
        self._bytes = self._reads = 0
        self._waited = 0.0

    def count(self, size: int, seconds: float) -> None:
        """Note that so many bytes came after so long a wait. Raises HubError."""
        self._bytes += size
        self._waited += seconds
        self._reads += 1
        if self.in_headers and self._bytes > _MAX_HEADERS:
            raise self.error(f"sends more than {_MAX_HEADERS} bytes before its answer begins")
        if self._waited >= _SLOW_AFTER and self._reads >= _SLOW_READS:
            if self._bytes < _SLOWEST * self._waited:
                raise self.error(
                    f"sent {count(self._bytes, 'byte')} in {self._waited:.0f} s, expected {_SLOWEST:,} a second "
                    "at least",
                    "try again later, check the network and HF_ENDPOINT, or copy its files here and pass their folder",
                )
            self._bytes = self._reads = 0
            self._waited = 0.0

    def error(self, found: str, way: str = "check HF_ENDPOINT, and ask whoever runs that server") -> HubError:
        """Return the error for an answer that is refused."""
        return HubError(f"{self.url}, asked for {self.name}, {found}; {way}")


_WATCH: ContextVar[_Watch | None] = ContextVar("coda_hub_watch", default=None)


@contextmanager
def watching(name: HubName, max_bytes: int = MAX_BYTES) -> Iterator[None]:
    """Look at every answer that huggingface_hub gets in this block, and refuse odd ones by a HubError.

    `max_bytes` is how many bytes what is asked for may have.
    """
    _install()
    token = _WATCH.set(_Watch(name, max_bytes))
    try:
        yield
    finally:
        _WATCH.reset(token)


def _install() -> None:
    """Make the session that huggingface_hub downloads with, of httpx or, before 1.0, of requests, tell what comes.

    It keeps that: of other threads some may be at work with it. Out of `watching` nothing is looked at.
    """
    _listen(import_module("huggingface_hub.utils").get_session())
    http = sys.modules.get("huggingface_hub.utils._http")
    factory = getattr(http, "_GLOBAL_CLIENT_FACTORY", None)
    if factory is not None and not hasattr(factory, "listened_to"):
        # After a connection that failed it makes another session.
        def make() -> Any:
            return _listen(factory())

        make.listened_to = True  # type: ignore[attr-defined]
        http._GLOBAL_CLIENT_FACTORY = make  # type: ignore[union-attr]


def _listen(session: Any) -> Any:
    if not hasattr(session, "event_hooks"):
        session.headers["Accept-Encoding"] = "identity"
        if _look_at not in session.hooks["response"]:
            session.hooks["response"].append(_look_at)
    elif _look_at not in session.event_hooks["response"]:
        session.event_hooks["request"].append(_prepare)
        session.event_hooks["response"].append(_look_at)
    return session


def _prepare(request: Any) -> None:
    if (watch := _WATCH.get()) is not None:
        watch.begin(str(request.url))
        request.headers["Accept-Encoding"] = "identity"
        request.extensions["trace"] = _time_connections


def _time_connections(event: str, info: dict[str, Any]) -> None:
    """Make a new connection tell how long each read of it took: headers may come byte by byte too."""
    if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
        stream = info["return_value"]
        read: Callable[..., bytes] = stream.read

        def timed(*args: Any, **kwargs: Any) -> bytes:
            start = time.monotonic()
            data = read(*args, **kwargs)
            if (watch := _WATCH.get()) is not None and watch.in_headers:
                watch.count(len(data), time.monotonic() - start)
            return data

        stream.read = timed


def _look_at(response: Any, *_: Any, **__: Any) -> None:
    if (watch := _WATCH.get()) is None:
        return
    watch.begin(str(response.url))
    watch.in_headers = False
    # A file is asked about by HEAD; other answers' tags, those of stores behind the Hub, name no file.
    for header, name, plain in _file_names(response.headers) if response.request.method == "HEAD" else ():
        if plain.fullmatch(name) is None:
            raise watch.error(f"answers with {header} {response.headers[header][:60]!r}, expected a plain hash")
    for header, seconds in (("Retry-After", r"\s*(\d+)\s*"), ("RateLimit", r".*;\s*t\s*=\s*(\d+).*")):
        asked = re.fullmatch(seconds, response.headers.get(header, ""))
        if asked and (len(asked[1]) > 9 or int(asked[1]) > _MAX_PAUSE):
            raise watch.error(
                f"asks to wait {asked[1][:20]} s ({header}), expected {_MAX_PAUSE} at most", "try again later"
            )
    packed = response.headers.get("Content-Encoding", "identity")
    if packed.strip().lower() not in ("", "identity"):
        raise watch.error(f"answers with Content-Encoding {packed[:60]!r}, and was asked for none")
    limit = watch.max_bytes if response.status_code < 300 else MAX_BYTES
    read = "iter_raw" if hasattr(response, "iter_raw") else "iter_content"
    # All other ways to read it go by this one.
    setattr(response, read, _counted(getattr(response, read), watch, limit))


def _file_names(headers: Any) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    """Yield the headers after which huggingface_hub names files in the cache: header, name, and what it must be."""
    tag = "X-Linked-ETag" if headers.get("X-Linked-ETag") else "ETag"
    if tag in headers:
        yield tag, headers[tag].lstrip("W/").strip('"'), _FILE  # as it takes marks and quotes off
    if "X-Repo-Commit" in headers:
        yield "X-Repo-Commit", headers["X-Repo-Commit"], COMMIT


def _counted(read: Callable[..., Iterator[bytes]], watch: _Watch, limit: int) -> Callable[..., Iterator[bytes]]:
    def counted(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        pieces = read(*args, **kwargs)
        total = 0
        while True:
            start = time.monotonic()
            piece = next(pieces, None)
            if piece is None:
                return
            total += len(piece)
            if total > limit:
                raise watch.error(f"sends more than {count(limit, 'byte')}, which is all that was expected")
            watch.count(len(piece), time.monotonic() - start)
            yield piece

    return counted
