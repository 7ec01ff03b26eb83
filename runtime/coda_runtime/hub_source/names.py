"""What a bundle on the Hub is called: "org/name", or "org/name@revision" where one revision is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
MAIN = "main"


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub and one of its revisions: a branch, a tag or a whole commit hash."""

    repo: str
    revision: str = MAIN

    def __str__(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return COMMIT.fullmatch(self.revision) is not None


def is_hub_name(text: object) -> bool:
    """Return whether a text is "org/name" or "org/name@revision"."""
    if not isinstance(text, str):
        return False
    repo, at, revision = text.partition("@")
    return _REPO.fullmatch(repo) is not None and (not at or _is_revision(revision))


def parse_hub_name(text: object, revision: str | None = None) -> HubName:
    """Read "org/name" or "org/name@revision"; `revision` may be given beside the first. Raises InputError."""
    if not is_hub_name(text):
        raise InputError(f"{text!r} is not a Hub id; expected org/name, or org/name@revision")
    repo, _, inside = str(text).partition("@")
    if inside and revision is not None:
        raise InputError(f"{text!r} names a revision, and revision is {revision!r} besides; give one of them")
    if revision is not None and not _is_revision(revision):
        raise InputError(f"revision is {revision!r}; expected a branch, a tag or a commit hash")
    return HubName(repo, revision or inside or MAIN)


def _is_revision(text: object) -> bool:
    return isinstance(text, str) and _REVISION.fullmatch(text) is not None and ".." not in text
