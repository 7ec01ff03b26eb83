"""A Hub of one's own for each test, and huggingface_hub pointed at it: here, and in processes that a test starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from tests.runtime import graphs, measurable, tiny
from tests.runtime.hub.server import TOKEN, Hub, serving

REPO = "org/name"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, with an empty cache and a token that may write."""
    with serving(Hub()) as running:
        point_at(running.url, tmp_path / "hf", monkeypatch)
        yield running


def point_at(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub, which read its environment long ago, ask at `url` and keep its cache in `home`."""
    from huggingface_hub import constants

    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


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
