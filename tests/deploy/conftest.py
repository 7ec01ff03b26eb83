"""The same random numbers in every run, and no user's cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from coda_deploy.weights import PUBLISHED


def _weights_home() -> Path | None:
    """The cache of this environment, or the user's as it is before tests get their own."""
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    homes = [Path(sys.prefix, "cache"), Path(own)]
    files = [Path("coda-deploy", "weights", f"{name}.safetensors") for name in PUBLISHED]
    return next((home for home in homes if all((home / file).is_file() for file in files)), None)


WEIGHTS_HOME = _weights_home()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def real_weights(_own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache with the published weights in it, which `make test` has filled.

    Where there is none the test is skipped, but fails in CI.
    """
    if WEIGHTS_HOME is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "the published weights are not here: run `coda weights lpips dists`"
        )
    monkeypatch.setenv("XDG_CACHE_HOME", str(WEIGHTS_HOME))
