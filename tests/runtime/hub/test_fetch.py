from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime import (
    ArtifactError,
    BundleError,
    BundleNotFoundError,
    ChecksumError,
    HubError,
    ManifestError,
    load,
)
from coda_runtime.format.manifest import MAX_BYTES
from coda_runtime.hub_source import find_bundle
from tests.hub_server import Hub, point_at, serving
from tests.runtime import tiny
from tests.runtime.hub.conftest import REPO, files

ONE = tiny.FILES[1]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose codes stand in another order, so that its ids differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "TABLE", np.ascontiguousarray(tiny.TABLE[::-1]))
        return tiny.make_bundle(tmp_path_factory.mktemp("other") / "bundle")


@pytest.fixture(scope="module")
def images() -> Any:
    return tiny.photos(2)


def asked_for(hub: Hub) -> set[str]:
    """The files whose content was asked for."""
    return {path.rsplit("/", 1)[1] for method, path in hub.asked if method == "GET" and "/resolve/" in path}


def test_only_the_bundle_s_files_come(hub: Hub, sealed: Path) -> None:
    hub.commit(
        REPO, "main", {**files(sealed), "README.md": b"a card", "pytorch_model.bin": b"a pickle", "x/y.py": b"1"}
    )
    folder = find_bundle(REPO)
    assert files(folder) == files(sealed)
    assert asked_for(hub) == set(files(sealed))


def test_every_revision_has_its_own_ids(hub: Hub, sealed: Path, other: Path, images: Any) -> None:
    first, second = hub.push_folder(REPO, sealed), hub.push_folder(REPO, other)
    hub.refs[REPO]["v1"] = first
    with load(sealed) as tok:
        old = tok.encode(images)
    with load(other) as tok:
        new = tok.encode(images)
    assert (old != new).any()
    for name, revision, ids in (
        (REPO, None, new),
        (REPO, first, old),
        (f"{REPO}@{first}", None, old),
        (f"{REPO}@v1", None, old),
        (REPO, second, new),
    ):
        with load(name, revision=revision) as tok:
            np.testing.assert_array_equal(tok.encode(images), ids)
    third = hub.push_folder(REPO, sealed)
    assert find_bundle(REPO).name == third, "a branch is asked for again"


def test_a_pinned_commit_needs_no_network_once_it_is_here(hub: Hub, sealed: Path) -> None:
    commit = hub.push_folder(REPO, sealed)
    folder = find_bundle(REPO, commit)
    hub.asked.clear()
    assert find_bundle(REPO, commit) == folder
    assert hub.asked == []
    for name in (ONE, "manifest.json"):
        (folder / name).resolve().write_bytes(b"broken on the disk")
        assert find_bundle(REPO, commit) == folder
        assert files(folder) == files(sealed)
        assert asked_for(hub) == {name}
        hub.asked.clear()


def test_what_the_hub_damaged_is_found_and_not_kept(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    whole = files(sealed)
    for name in (ONE, "SHA256SUMS", tiny.FILES[3], "manifest.json"):
        broken = bytearray(whole[name])
        broken[len(broken) // 2] ^= 1
        hub.commit(REPO, "main", {**whole, name: bytes(broken)})
        with pytest.raises(BundleError, match="org/name on the Hugging Face Hub: "):
            load(REPO)
        assert bytes(broken) not in files(tmp_path / "hf").values()
    hub.push_folder(REPO, sealed)
    load(REPO).close()


def test_sizes_that_do_not_fit_the_manifest_end_it_before_the_download(hub: Hub, sealed: Path) -> None:
    hub.push_folder(REPO, sealed)
    hub.lying_sizes[ONE] = 10**15
    with pytest.raises(ChecksumError, match=rf"Hub: {ONE} has {10**15:,} bytes there, but the manifest says"):
        load(REPO)
    assert asked_for(hub) == {"manifest.json"}
    hub.lying_sizes.clear()
    del hub.head(REPO)[ONE]
    with pytest.raises(ChecksumError, match=rf"{ONE} is not there"):
        load(REPO)


def test_a_listing_that_lies_is_found_out_by_the_file(hub: Hub, sealed: Path) -> None:
    whole = files(sealed)
    hub.commit(REPO, "main", {**whole, ONE: whole[ONE] + b"more"})
    hub.lying_sizes[ONE] = len(whole[ONE])
    with pytest.raises(HubError, match=f"{ONE}, asked for {REPO}, sends more than {len(whole[ONE]):,} bytes"):
        load(REPO)


def test_lists_of_any_size_are_not_downloaded(hub: Hub, sealed: Path) -> None:
    hub.push_folder(REPO, sealed)
    for name in ("manifest.json", "SHA256SUMS"):
        hub.lying_sizes = {name: MAX_BYTES + 1}
        with pytest.raises(HubError, match=f"has a {name} of {MAX_BYTES + 1:,} bytes, expected {MAX_BYTES:,} at most"):
            load(REPO)
        assert name not in asked_for(hub)


def test_a_repository_that_is_no_bundle(hub: Hub) -> None:
    hub.commit(REPO, "main", {"README.md": b"a model"})
    with pytest.raises(BundleNotFoundError, match=r"org/name on the Hugging Face Hub: there is no manifest\.json"):
        load(REPO)


def test_a_manifest_that_would_leave_the_folder_ends_it(hub: Hub, sealed: Path) -> None:
    whole = files(sealed)
    manifest = json.loads(whole["manifest.json"])
    manifest["artifacts"][0]["file"] = "../../../evil.onnx"
    hub.commit(REPO, "main", {**whole, "manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(ManifestError, match="must name a file inside the bundle"):
        load(REPO)
    assert asked_for(hub) == {"manifest.json"}


def test_a_graph_with_weights_elsewhere_is_rejected(
    hub: Hub, tmp_path: Path, external_bundle: Callable[[Path, str], Path]
) -> None:
    hub.push_folder(REPO, external_bundle(tmp_path / "evil", "../../../../etc/passwd"))
    with pytest.raises(ArtifactError, match="keeps weights in another file"):
        load(REPO)


def test_a_download_that_was_cut_goes_on_where_it_ended(
    hub: Hub, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 64)
    hub.push_folder(REPO, sealed)
    hub.cut = {ONE}
    assert files(find_bundle(REPO)) == files(sealed)
    assert hub.ranges == [ONE]


def test_a_hub_that_does_not_answer(sealed: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Hub()) as hub:
        point_at(hub.url, tmp_path / "hf", monkeypatch)
        first = hub.push_folder(REPO, sealed)
        folder = find_bundle(REPO)
        hub.failing = 503
        with pytest.warns(RuntimeWarning, match=f"the Hub does not answer.*commit {first}"):
            assert find_bundle(REPO) == folder
    with pytest.warns(RuntimeWarning, match=f"the Hub does not answer.*commit {first}"), load(REPO) as tok:
        assert tok.folder == folder
    assert find_bundle(REPO, first) == folder, "and no warning: it is exactly what was asked for"
    (folder / ONE).unlink()
    for name in (REPO, f"{REPO}@{first}", "org/never"):
        with pytest.raises(HubError, match=r"did not answer.*check the network"):
            load(name)


def test_a_hub_that_never_ends_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "hf", monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
        with pytest.raises(HubError, match=r"did not answer.*timed out"):
            load(REPO)


def test_offline_it_loads_what_is_in_the_cache(hub: Hub, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.push_folder(REPO, sealed)
    hub.push_folder("org/half", sealed)
    find_bundle(REPO)
    (find_bundle("org/half") / ONE).unlink()
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = f"""
import coda_runtime
for name in ("{REPO}", "{REPO}@{commit}"):
    print(coda_runtime.load(name).folder.name)
for name in ("org/half", "org/never"):
    try:
        coda_runtime.load(name)
    except coda_runtime.HubError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *found, half, never = done.stdout.splitlines()
    assert found == [commit, commit]
    assert half.startswith("org/half is not in the Hub's cache, or not all of it, and HF_HUB_OFFLINE is set")
    assert never.startswith("org/never is not in the Hub's cache")
    assert hub.asked == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def test_a_disk_that_takes_nothing_is_not_the_network(
    hub: Hub, sealed: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    hub.push_folder(REPO, sealed)

    def fail(*_: Any, **__: Any) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(HubError, match=rf"cannot be kept in the Hub's cache .*{os.strerror(number)}.*set HF_HOME to"):
        find_bundle(REPO)


def test_a_cache_that_is_a_file_is_not_the_network(
    hub: Hub, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push_folder(REPO, sealed)
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HubError, match=r"cannot be kept in the Hub's cache .*set HF_HOME to"):
        find_bundle(REPO)
