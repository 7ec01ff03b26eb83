from __future__ import annotations

from pathlib import Path

import pytest

from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from tests.runtime import measurable


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with samples; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("measurable") / "bundle")


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return Bundle.open(folder)


@pytest.fixture
def graphs(bundle: Bundle) -> dict[str, Artifact]:
    """The artifacts by part."""
    return {artifact.part: artifact for artifact in bundle.manifest.artifacts}
