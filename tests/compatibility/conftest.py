"""Every test runs for every version whose files are here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compatibility.versions import DATA, VERSIONS
from tests.deploy.train import runs

_one_thread = runs.one_thread_each_module


@pytest.fixture(scope="session", params=VERSIONS)
def written(request: pytest.FixtureRequest) -> Path:
    """The folder of a version; not to be changed."""
    return DATA / str(request.param)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
