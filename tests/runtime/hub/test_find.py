from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from coda_runtime import BundleNotFoundError, HubError, InputError, MissingDependencyError, load
from coda_runtime.hub_source import find_bundle
from tests.hub_server import Hub
from tests.runtime.hub.conftest import REPO


def test_a_local_folder_comes_first(hub: Hub, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sealed.parent.parent)
    with load(f"{sealed.parent.name}/bundle") as tok:
        assert tok.folder == Path(sealed.parent.name) / "bundle"
    with pytest.raises(BundleNotFoundError, match="or a Hub id such as org/name"):
        load(f"{sealed.parent.name}/bundel")
    assert hub.asked == []


def test_a_revision_means_the_hub(hub: Hub, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push_folder(REPO, sealed)
    (tmp_path / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_bundle(REPO) == Path(REPO)
    for found in (find_bundle(REPO, "main"), find_bundle(f"{REPO}@main")):
        assert found.name == hub.refs[REPO]["main"]
    Path(f"{REPO}@main").mkdir()
    assert find_bundle(f"{REPO}@main") == Path(f"{REPO}@main")
    with pytest.raises(InputError, match=r"is not a Hub id.*a folder has no revisions"):
        load(sealed, revision="main")


@pytest.mark.parametrize("path", [Path("org/name"), "a/b/c", "./a/b", "/a/b", "name", "", "a/..", "a/b\n", 7])
def test_what_is_no_hub_id_is_not_looked_for(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleNotFoundError):
        load(path)
    assert hub.asked == []


def test_without_the_library_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match='pip install "huggingface_hub>='):
        load(REPO)


def test_failures_say_what_to_do(hub: Hub, sealed: Path) -> None:
    with pytest.raises(HubError, match=r"no model 'org/name'.*or it is private; check the name, or log in"):
        load(REPO)
    hub.push_folder(REPO, sealed)
    with pytest.raises(HubError, match=r"org/name has no revision 'v9'; http.*/org/name/tree/main lists"):
        load(REPO, revision="v9")
    hub.gated.add(REPO)
    with pytest.raises(HubError, match=r"is gated: accept its terms on http.*/org/name"):
        load(REPO)
    for status, words in ((403, "rejects your token"), (429, "try again later"), (503, "try again later")):
        hub.failing = status
        with pytest.raises(HubError, match=words):
            load(REPO)
