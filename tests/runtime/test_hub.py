from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coda_runtime import BundleNotFoundError, HubError, MissingDependencyError, load

hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")


def _answer(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    asked: list[str] = []

    def snapshot_download(repo: str) -> str:
        asked.append(repo)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return asked


def test_a_hub_id_is_fetched(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answer(monkeypatch, sealed)
    with load("org/name") as tok:
        assert tok.folder == sealed
    assert asked == ["org/name"]


def test_a_local_folder_comes_first(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answer(monkeypatch, Path("/nothing"))
    monkeypatch.chdir(sealed.parent.parent)
    with load(f"{sealed.parent.name}/bundle") as tok:
        assert tok.spec.variant == "tiny"
    with pytest.raises(BundleNotFoundError, match="or a Hub id such as org/name"):
        load(f"{sealed.parent.name}/bundel")
    assert asked == []


@pytest.mark.parametrize("path", [Path("org/name"), "a/b/c", "./a/b", "/a/b", "name", "", "a/..", "a/b\n"])
def test_what_is_no_hub_id_is_not_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: Any) -> None:
    asked = _answer(monkeypatch, Path("/nothing"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleNotFoundError):
        load(path)
    assert asked == []


def test_failures_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    for answer, match in (
        (errors.RepositoryNotFoundError("404", response=response), "no such model on the Hugging Face Hub"),
        (errors.LocalEntryNotFoundError("offline"), "cannot be reached"),
        (errors.HfHubHTTPError("500\nand more", response=response), r"did not deliver 'org/name' \(500 and more\)"),
        (OSError("disk full"), "did not deliver"),
    ):
        _answer(monkeypatch, answer)
        with pytest.raises(HubError, match=match):
            load("org/name")


def test_without_the_library_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "coda-runtime\[hub\]"'):
        load("org/name")
