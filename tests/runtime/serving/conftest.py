"""Servers that several test files share: each is a process, started at first use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving.process import Server

WAITING = 4
"""Images that may wait at the `patient` server."""


@pytest.fixture(scope="package")
def server(sealed: Path) -> Iterator[Server]:
    """Two devices, small limits of what one request may bring, a batch that requests must be split for."""
    limits = ["--max-images", 20, "--max-pixels", 70_000, "--max-request-mb", 1, "--max-batch", 8]
    yield from _running(Server(sealed, "--device", "cpu,cpu", "--threads", 1, *limits))


@pytest.fixture
def patient(sealed: Path) -> Iterator[Server]:
    """Waits a minute for batches of 100 images, while 4 at most may wait and 2 requests be under way."""
    limits = ["--max-queue", WAITING, "--max-images", WAITING, "--max-requests", 2]
    yield from _running(Server(sealed, "--max-delay-ms", 60_000, "--max-batch", 100, *limits))


@pytest.fixture(scope="package")
def hasty(sealed: Path) -> Iterator[Server]:
    """Waits a minute for batches of 100 images, and gives a request a second."""
    yield from _running(Server(sealed, "--max-delay-ms", 60_000, "--max-batch", 100, "--timeout", 1))


def _running(server: Server) -> Iterator[Server]:
    try:
        server.wait_for("ready")
        yield server
    finally:
        server.kill()
