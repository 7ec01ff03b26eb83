from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime import measurable, second_backend


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with samples; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("tune") / "bundle")


@pytest.fixture
def second() -> Iterator[None]:
    """A second backend that "auto" chooses from, least preferred."""
    with second_backend.registered():
        yield
