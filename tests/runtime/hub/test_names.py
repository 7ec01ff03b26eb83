from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import InputError
from coda_runtime.hub_source.names import HubName, is_hub_name, parse_hub_name

WORDS = st.text("aZ09_.-", min_size=1, max_size=8).map(lambda text: f"x{text}").filter(lambda text: ".." not in text)


@given(WORDS, WORDS, WORDS)
def test_a_name_is_read_back_from_its_text(org: str, name: str, revision: str) -> None:
    for told in (HubName(f"{org}/{name}"), HubName(f"{org}/{name}", revision)):
        assert is_hub_name(str(told))
        assert parse_hub_name(str(told)) == told
    assert parse_hub_name(f"{org}/{name}", revision) == HubName(f"{org}/{name}", revision)


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "a/b/c",
        "./a",
        "/a/b",
        "a/",
        "",
        "org/name@",
        "org/name@../x",
        "org/name@-x",
        "org/name\n",
        "@v1",
        None,
        7,
    ],
)
def test_what_is_no_name_is_rejected(text: object) -> None:
    assert not is_hub_name(text)
    with pytest.raises(InputError, match="is not a Hub id; expected org/name"):
        parse_hub_name(text)


def test_one_revision_is_enough() -> None:
    with pytest.raises(InputError, match="give one of them"):
        parse_hub_name("org/name@v1", "v2")
    with pytest.raises(InputError, match="expected a branch, a tag or a commit hash"):
        parse_hub_name("org/name", "")


def test_only_a_whole_commit_hash_is_pinned() -> None:
    assert HubName("org/name", "0" * 40).pinned
    assert not HubName("org/name", "0" * 39).pinned
    assert parse_hub_name("org/name@refs/pr/1").revision == "refs/pr/1"
