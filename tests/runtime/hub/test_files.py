"""Chosen files of a repository: which choice is taken, what the cache learns, and what is refused."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from coda_runtime import HubError, MissingDependencyError
from coda_runtime.hub_source.files import Fetched, fetch_files, first_complete, lacking
from coda_runtime.hub_source.names import HubName, parse_hub_name
from tests.hub_server import Hub
from tests.runtime.hub.conftest import REPO

NAME = HubName(REPO)
DEEP = {"a/one.pth": 99, "a/two.txt": 99}
FLAT = {"one.pth": 99, "two.txt": 99}
FILES = {"one.pth": b"weights", "two.txt": b"text"}


def contents(fetched: Fetched) -> dict[str, bytes]:
    return {file: path.read_bytes() for file, path in fetched.paths.items()}


def test_the_first_complete_choice_comes_and_nothing_else(hub: Hub) -> None:
    deep = {f"a/{name}": data + b"!" for name, data in FILES.items()}
    whole = {**FILES, **deep, "three": b"3"}
    for there, expected in (
        (whole, deep),
        ({file: data for file, data in whole.items() if file != "a/one.pth"}, FILES),
    ):
        commit = hub.commit(REPO, "main", there)
        hub.asked.clear()
        fetched = fetch_files(NAME, [DEEP, FLAT])
        assert contents(fetched) == expected
        assert fetched.sha256 == {file: hashlib.sha256(data).hexdigest() for file, data in expected.items()}
        assert (fetched.name, fetched.commit) == (NAME, commit)
        content = {path.split("/", 5)[5] for method, path in hub.asked if method == "GET" and "/resolve/" in path}
        assert content <= set(expected)


def test_what_is_missing_is_named_by_the_nearest_choice(hub: Hub) -> None:
    choices = [DEEP, FLAT]
    assert first_complete(choices, {"a/one.pth", "two.txt"}) is None
    looked_for = "looked for a/one.pth and a/two.txt, or for one.pth and two.txt"
    assert lacking(choices, set()) == f"lacks a/one.pth and a/two.txt: {looked_for}"
    assert lacking(choices, {"one.pth"}) == f"lacks two.txt: {looked_for}"
    commit = hub.commit(REPO, "main", {"one.pth": b"weights"})
    with pytest.raises(HubError, match=f"org/name, commit {commit[:12]}, lacks two.txt: {looked_for}; check the name"):
        fetch_files(NAME, choices)


def test_a_file_of_any_size_is_not_fetched(hub: Hub) -> None:
    hub.commit(REPO, "main", FILES)
    fetch_files(NAME, [{"one.pth": 7}])
    hub.asked.clear()
    with pytest.raises(HubError, match=r"has a one\.pth of 7 bytes, expected 6 at most; nothing was downloaded"):
        fetch_files(NAME, [{"two.txt": 9, "one.pth": 6}])
    assert not any("/resolve/" in path for _, path in hub.asked)


def test_an_interrupted_fetch_does_not_hide_what_the_cache_has(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is told of a branch's new commit when all of it is there."""
    first = hub.commit(REPO, "main", FILES)
    fetch_files(NAME, [FLAT])
    second = hub.commit(REPO, "main", {**FILES, "two.txt": b"new"})
    hub.broken = {"two.txt"}
    # The library asks five times more, and would wait for 23 seconds in all.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    with pytest.raises(HubError):
        fetch_files(NAME, [FLAT])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_files(NAME, [FLAT]).commit == first
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.broken.clear()
    assert fetch_files(NAME, [FLAT]).commit == second
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_files(NAME, [FLAT]).commit == second


def test_a_damaged_commit_in_the_cache_is_fetched_again(hub: Hub) -> None:
    commit = hub.commit(REPO, "main", FILES)
    pinned = parse_hub_name(REPO, commit)
    path = fetch_files(pinned, [FLAT]).paths["one.pth"]
    hub.asked.clear()
    assert contents(fetch_files(pinned, [FLAT])) == FILES
    assert hub.asked == []
    path.resolve().write_bytes(b"WEIGHTS")
    assert contents(fetch_files(pinned, [FLAT])) == FILES
    assert hub.asked


def test_what_the_hub_does_not_list_so_is_damage(hub: Hub, tmp_path: Path) -> None:
    hub.commit(REPO, "main", FILES)
    hub.corrupted = {"one.pth"}
    with pytest.raises(HubError, match=r"one\.pth of org/name has SHA-256 .* it was damaged on its way and is removed"):
        fetch_files(NAME, [FLAT])
    assert not list((tmp_path / "hf").rglob("one.pth"))


def test_the_warning_names_whoever_asked(hub: Hub) -> None:
    commit = hub.commit(REPO, "main", FILES)
    fetch_files(NAME, [FLAT])
    hub.failing = 503
    with pytest.warns(RuntimeWarning, match=f"does not answer, and org/name .* commit {commit}") as warned:
        fetch_files(NAME, [FLAT])
    assert re.search(r"test_files\.py$", warned[0].filename)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError):
        fetch_files(NAME, [FLAT])
