from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from coda_runtime import BundleError, ChecksumError, HubError, InputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.hub.pull import pull
from coda_runtime.hub_source import find_bundle
from tests.hub_server import Hub
from tests.runtime import tiny
from tests.runtime.hub.conftest import REPO, files


def test_a_bundle_made_by_hand_comes_as_it_is(hub: Hub, minimal: Path, tmp_path: Path) -> None:
    commit = hub.push_folder(REPO, minimal, "hand")
    (tmp_path / "empty").mkdir()
    done = pull(f"{REPO}@hand", tmp_path / "empty")
    assert (done.repo, done.commit, done.folder) == (REPO, commit, tmp_path / "empty")
    assert files(done.folder) == files(minimal)
    assert not any(path.is_symlink() for path in done.folder.rglob("*"))


@pytest.mark.parametrize("name", [tiny.FILES[0], "SHA256SUMS", "manifest.json"])
def test_a_flipped_byte_leaves_nothing(hub: Hub, sealed: Path, tmp_path: Path, name: str) -> None:
    whole = files(sealed)
    at = whole[name].rindex(b"e") if name == "manifest.json" else 0
    broken = whole[name][:at] + bytes([whole[name][at] ^ 1]) + whole[name][at + 1 :]
    hub.commit(REPO, "main", {**whole, name: broken})
    with pytest.raises(BundleError):
        pull(REPO, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_the_copy_is_read_again(hub: Hub, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push_folder(REPO, sealed)
    source = find_bundle(REPO)

    def tired(mode: str, folder: Path) -> None:
        if folder != source:
            raise ChecksumError("the disk forgot a bit")

    monkeypatch.setattr(Bundle, "verify", lambda self, mode="cached": tired(mode, self.folder))
    with pytest.raises(ChecksumError, match="forgot a bit"):
        pull(REPO, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_that_holds_something_is_left_alone(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    hub.push_folder(REPO, sealed)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for out in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(InputError, match="exists; name a folder that does not"):
            pull(REPO, out)
    assert hub.asked == []


def test_a_path_is_no_hub_id(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a Hub id"):
        pull(str(sealed), tmp_path / "out")


def test_a_hub_that_ends_half_way_leaves_nothing(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    hub.push_folder(REPO, sealed)
    hub.gated.add(REPO)  # the listing is public, the files are not
    with pytest.raises(HubError, match="gated"):
        pull(REPO, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    hub.gated.clear()
    assert files(pull(REPO, tmp_path / "out").folder) == files(sealed)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        # Four folders above what the cache is asked to write: in tmp_path, where the test looks.
        ("ETag", '"../../../../written"'),
        ("ETag", '"/ROOT/written"'),
        ("ETag", '".."'),
        ("ETag", 'W/""'),
        ("ETag", "x\\written"),
        ("X-Linked-Etag", 'W/"../../../../written"'),
        ("X-Repo-Commit", "../../../../written"),
        ("sha", "../../../../written"),
    ],
)
def test_an_answer_that_names_a_path_writes_nothing_outside(
    hub: Hub, sealed: Path, tmp_path: Path, header: str, value: str
) -> None:
    hub.push_folder(REPO, sealed)
    value = value.replace("/ROOT", str(tmp_path))
    if header == "sha":
        hub.sha = value
    else:
        hub.lying_headers[header] = value
    with pytest.raises(HubError, match=r"expected (a plain hash|40 hexadecimal digits)"):
        pull(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*written*"))


@pytest.mark.parametrize("refused", [1, 2])
def test_nor_after_a_connection_that_was_refused(
    hub: Hub, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    """huggingface_hub asks again then, with another session."""
    from huggingface_hub.utils import get_session

    if not hasattr(session := get_session(), "_transport"):
        pytest.skip("this huggingface_hub asks by requests, and with one session")
    transport = type(session._transport)
    refusal = sys.modules[transport.__module__.partition(".")[0]].ConnectError
    answer, left = transport.handle_request, [refused]

    def handle_request(self: Any, request: Any) -> Any:
        if request.method == "HEAD" and left[0]:
            left[0] -= 1
            raise refusal("refused", request=request)
        return answer(self, request)

    monkeypatch.setattr(transport, "handle_request", handle_request)
    hub.push_folder(REPO, sealed)
    hub.lying_headers["ETag"] = '"../../../../written"'
    with pytest.raises(HubError, match="expected a plain hash"):
        pull(REPO, tmp_path / "out")
    assert left == [0]
    assert not list(tmp_path.rglob("*written*"))


@pytest.mark.parametrize("etag", ['"rtR+2Q==-{hash}"', '"{hash}:0"', "{hash}", 'W/"{hash} ~;(1)"', '"@{hash}.x"'])
def test_tags_of_other_servers(hub: Hub, sealed: Path, tmp_path: Path, etag: str) -> None:
    hub.push_folder(REPO, sealed)
    hub.lying_headers["ETag"] = etag
    assert files(pull(REPO, tmp_path / "out").folder) == files(sealed)


def test_a_tag_that_names_no_file_is_not_looked_at(hub: Hub, sealed: Path, tmp_path: Path) -> None:
    hub.push_folder(REPO, sealed)
    hub.lying_headers |= {"ETag": '"a/b"', "X-Linked-Etag": '"{hash}"'}
    assert files(pull(REPO, tmp_path / "out").folder) == files(sealed)
