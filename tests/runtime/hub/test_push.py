from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coda_runtime import BundleError, ChecksumError, HubError, InputError
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.hub.pull import pull
from coda_runtime.hub.push import push
from tests.hub_server import Hub
from tests.runtime import tiny
from tests.runtime.hub.conftest import REPO, files

# huggingface_hub's own, where an upload does not go by Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Copy = Callable[[Path], Path]


def test_nothing_but_the_bundle_goes(hub: Hub, sealed: Path, copy: Copy, tmp_path: Path) -> None:
    folder = copy(sealed)
    (tmp_path / "id_rsa").write_text("a secret")
    (folder / "notes.txt").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "id_rsa")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("token = 1")
    done = push(folder, REPO, private=True, message="first")
    assert hub.head(REPO).keys() == files(sealed).keys() | {".gitattributes", "README.md"}
    assert hub.messages[done.commit] == "first"
    assert hub.private == {REPO: True}
    assert sum("/commit/" in path for _, path in hub.asked) == 1


def test_a_new_push_takes_the_old_bundle_s_files_away_and_no_others(
    hub: Hub, measured: Path, minimal: Path, tmp_path: Path
) -> None:
    push(measured, REPO)
    hub.head(REPO)["LICENSE"] = b"mine"
    push(minimal, REPO)
    names = {".gitattributes", "README.md", "LICENSE", "card/reconstructions.png"}
    assert hub.head(REPO).keys() == files(minimal).keys() | names
    assert files(pull(REPO, tmp_path / "out").folder) == files(minimal)


def test_a_branch_is_made_and_main_stays(hub: Hub, sealed: Path, minimal: Path) -> None:
    first = push(minimal, REPO)
    done = push(sealed, REPO, revision="next")
    assert (done.revision, hub.refs[REPO]) == ("next", {"main": first.commit, "next": done.commit})
    assert push(sealed, f"{REPO}@next").revision == "next"
    with pytest.raises(InputError, match="is a commit, and cannot be added to"):
        push(sealed, REPO, revision=done.commit)


def test_a_readme_that_somebody_wrote_stays(hub: Hub, sealed: Path) -> None:
    assert push(sealed, REPO).card
    assert push(sealed, REPO).card, "one of ours is written again"
    hub.head(REPO)["README.md"] = b"# My words"
    assert not push(sealed, REPO).card
    assert hub.head(REPO)["README.md"] == b"# My words"
    assert push(sealed, REPO, overwrite_card=True).card
    assert b"# name" in hub.head(REPO)["README.md"]


def test_a_manifest_of_something_else_is_not_overwritten(hub: Hub, sealed: Path) -> None:
    before = hub.commit(REPO, "main", {"manifest.json": b'{"name": "a web app"}'})
    with pytest.raises(HubError, match=r"has a manifest\.json that is not a bundle's.*push to another repository"):
        push(sealed, REPO)
    assert hub.refs[REPO]["main"] == before


def test_without_a_token_nothing_is_asked(hub: Hub, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"no token.*hf auth login"):
        push(sealed, REPO)
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(HubError, match=r"rejects your token.*hf auth login"):
        push(sealed, REPO)
    assert hub.refs == {}


def test_a_broken_bundle_does_not_go(hub: Hub, sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    (folder / tiny.FILES[0]).write_bytes(b"x")
    with pytest.raises(BundleError, match="has 1 byte,"):
        push(folder, REPO)
    assert hub.asked == []


def test_a_file_where_the_card_goes_is_rejected(hub: Hub, sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    manifest = Bundle.open(folder).manifest
    (folder / tiny.FILES[3]).rename(folder / "readme.MD")
    artifact = dataclasses.replace(manifest.artifacts[3], file="readme.MD")
    seal(folder, dataclasses.replace(manifest, artifacts=(*manifest.artifacts[:3], artifact)))
    with pytest.raises(InputError, match=r"has readme\.MD, where the model card goes"):
        push(folder, REPO)


def test_what_the_repository_ignores_is_noticed(hub: Hub, sealed: Path) -> None:
    hub.ignored.add(tiny.FILES[3])
    with pytest.raises(HubError, match=rf"lacks {tiny.FILES[3]}.*\.gitignore"):
        push(sealed, REPO)


@pytest.mark.parametrize("small", [1 << 24, 0], ids=["from memory", "from the disk"])
@pytest.mark.parametrize("name", [*tiny.FILES, "SHA256SUMS"])
def test_a_file_exchanged_after_the_check_does_not_go(
    hub: Hub, sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch, name: str, small: int
) -> None:
    folder = copy(sealed)
    other = (folder / name).read_bytes()[:-2] + b"!!"
    real = Bundle.verify

    def verify(self: Bundle, *args: Any) -> None:
        real(self, *args)
        (folder / name).unlink()
        (folder / name).write_bytes(other)

    monkeypatch.setattr(Bundle, "verify", verify)
    monkeypatch.setattr("coda_runtime.hub.push._SMALL", small)
    with pytest.raises(
        ChecksumError, match=f"{name}.*(has SHA-256 .*, but the manifest says|does not end with a whole)"
    ):
        push(folder, REPO)
    assert not any("/commit/" in path for _, path in hub.asked)


def test_the_lists_go_as_they_were_checked(
    hub: Hub, sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = copy(sealed)
    real = Bundle.verify

    def verify(self: Bundle, *args: Any) -> None:
        real(self, *args)
        (folder / "manifest.json").write_text("{}")

    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "verify", verify)
        push(folder, REPO)
    assert files(pull(REPO, tmp_path / "out").folder) == files(sealed)


def test_no_progress_bar_in_a_pipe(hub: Hub, sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    push(sealed, REPO)
    assert capfd.readouterr() == ("", "")
