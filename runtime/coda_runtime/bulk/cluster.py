"""Ray: a quiet one of our own on this machine, or the cluster that is named."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from ..errors import BackendError, InputError, one_line
from ..io.remote import require
from ..io.user_folders import expand_home
from ..machine.processors import usable_count

_OBJECT_STORE = 512 << 20
"""Bytes of shared memory of a Ray of our own; the pixels under way are kept under half of it."""
_PATIENCE = 20.0  # seconds
_PREFIX, _LOCK, _YOUNG = "coda-ray-", "lock", 60.0
_SHORT = "/tmp"  # noqa: S108 - mkdtemp makes a folder in it that is ours alone
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ part writes notes for Ray's developers to stderr
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of a change to come
}


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Yield the module ray, connected while the block runs.

    A Ray that this process is connected to already is used, and stays. Else one is started on this machine for the
    block, or with `address` ("host:port", "auto", "ray://...") an existing one is used. Raises BackendError when it
    cannot be reached or started, InputError, MissingDependencyError.
    """
    require("ray", "pyarrow")
    fresh = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(fresh)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own deprecations
            import ray
            import ray.data

            ray.data.DataContext.get_current()
        if ray.is_initialized():
            if address is not None:
                raise InputError(f"Ray is already connected in this process; leave out the address {address!r}")
            with _quiet(ray):
                yield ray
            return
        with _connected(ray, address), _quiet(ray):
            yield ray
    finally:
        for name in fresh:
            os.environ.pop(name, None)


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if address is not None:
        _reach(address)
        with _started(ray, f"there is no Ray cluster at {address!r}", address=address):
            yield
        return
    _keep_private()
    with _temporary_folder() as folder:
        here = {
            "address": "local",
            "num_cpus": usable_count(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": f"{folder}/ray",  # which Ray opens to everyone; the folder above stays ours alone
        }
        with _started(ray, "Ray could not be started here", **here):
            yield


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """Make a folder for Ray's logs and spilled pixels, gone with the block; those of runs that were killed go first.

    In /tmp, since the paths of Ray's sockets in it must be short.
    """
    import fcntl

    base = Path(_SHORT) if Path(_SHORT).is_dir() else Path(tempfile.gettempdir())
    for old in base.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), old.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - old.stat().st_mtime > _YOUNG:  # a younger one may be about to be locked
                shutil.rmtree(old.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(ray: Any, otherwise: str, **where: Any) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            with warnings.catch_warnings(), _notes_dropped():
                warnings.simplefilter("ignore")
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # ConnectionError, RuntimeError, ValueError, TimeoutError, by what went wrong
            raise BackendError(
                f"{otherwise} ({one_line(error, named=True)}); check the address and the versions of Ray"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise BackendError unless something listens at "host:port" or "ray://host:port": Ray itself waits for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:  # "auto", which Ray looks up on this machine
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise BackendError(
            f"there is no Ray cluster at {address!r} ({one_line(error)}); check the host and the port"
        ) from error


def _keep_private() -> None:
    """Give a Ray of our own a token that is written nowhere, so that no other user of the machine can speak to it."""
    if "RAY_AUTH_TOKEN" not in os.environ and not expand_home("~/.ray/auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = token_hex(32)


@contextmanager
def _notes_dropped() -> Iterator[None]:
    """Drop what Ray's C++ part writes to stderr as it starts, which no log level silences."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Silence Ray Data's progress bars and notes, which would mix with ours."""
    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    level, bars = logger.level, context.enable_progress_bars
    logger.setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    try:
        yield
    finally:
        logger.setLevel(level)
        context.enable_progress_bars = bars
