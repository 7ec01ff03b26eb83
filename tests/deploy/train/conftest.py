"""What the tests of the trainer share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.train import runs


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with runs.one_thread():
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> runs.Place:
    """Not to be changed."""
    return runs.Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def whole(place: runs.Place) -> Path:
    """A training that nothing has interrupted; not to be changed."""
    out = place.root / "whole"
    with runs.one_thread():
        place.train(out, runs.config())
    return out
