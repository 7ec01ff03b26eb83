from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime import measurable


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with samples; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("bench") / "bundle")
