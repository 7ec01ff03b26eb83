"""What the tests of the trainer share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.train import runs

_one_thread = runs.one_thread_each_module


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> runs.Workspace:
    """Not to be changed."""
    return runs.Workspace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def whole(workspace: runs.Workspace) -> Path:
    """A training that nothing has interrupted; not to be changed."""
    out = workspace.root / "whole"
    with runs.one_thread():
        workspace.train(out, runs.config())
    return out
