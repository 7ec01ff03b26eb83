"""What the tests of the trainer share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.train import runs

_one_thread = runs.one_thread_each_module


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
