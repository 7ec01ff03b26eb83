"""Bundles for a Hub, which `tests/conftest.py` makes for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from tests.runtime import graphs, measurable, tiny

REPO = "org/name"


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed bundle with photographs; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("measured") / "bundle", exporter="test | <b>bold</b>")


def files(folder: Path) -> dict[str, bytes]:
    """{name: content} of all that lies in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def external_bundle() -> Callable[[Path, str], Path]:
    """Makes a sealed bundle at a path whose encoder keeps its weights in the file that is named."""

    def make(folder: Path, location: str) -> Path:
        tiny.make_bundle(folder)
        graphs.make_external(folder / tiny.FILES[0], location)
        graphs.vouch(folder)
        return folder

    return make
