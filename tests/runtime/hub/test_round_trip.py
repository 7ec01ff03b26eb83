from __future__ import annotations

from pathlib import Path

import pytest

from coda_runtime import load
from coda_runtime.hub.pull import pull
from coda_runtime.hub.push import push
from tests.hub_server import Hub
from tests.runtime import tiny
from tests.runtime.hub.conftest import REPO, files

# huggingface_hub's own, where an upload does not go by Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_what_is_pushed_is_what_is_pulled(hub: Hub, measured: Path, tmp_path: Path) -> None:
    pushed = push(measured, REPO)
    assert pushed.commit == hub.refs[REPO]["main"]
    assert pushed.url == f"{hub.url}/{REPO}/commit/{pushed.commit}"
    assert hub.head(REPO).keys() == files(measured).keys() | {".gitattributes", "README.md", "card/reconstructions.png"}
    pulled = pull(REPO, tmp_path / "pulled")
    assert pulled.commit == pushed.commit
    assert files(pulled.folder) == files(measured)
    with load(REPO) as there, load(measured) as here:
        assert there.fingerprints == here.fingerprints
        images = tiny.photos(2)
        assert (there.encode(images) == here.encode(images)).all()
