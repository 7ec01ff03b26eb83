"""What every fetch needs: the listing of one commit, and what to do where the Hub cannot be asked for it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import HubError
from .answers import watching
from .client import explained, is_offline, is_unreachable
from .names import COMMIT, HubName

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """What a revision holds: its commit, the size in bytes of each file, and the SHA-256 of those in LFS."""

    commit: str
    sizes: Mapping[str, int]
    sha256: Mapping[str, str] = field(default_factory=dict)


def list_files(hub: Any, name: HubName) -> Listing:
    """Ask the Hub what a revision holds. Raises HubError, and what huggingface_hub does."""
    with watching(name):
        info = hub.HfApi().model_info(
            name.repo, revision=name.revision, files_metadata=True, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT
        )
    if not info.sha:
        raise ValueError("it names no commit")
    if COMMIT.fullmatch(info.sha) is None:
        raise HubError(
            f"the Hugging Face Hub says that {name} is the commit {info.sha[:60]!r}, expected 40 hexadecimal digits; "
            "check HF_ENDPOINT, and ask whoever runs that server"
        )
    files = info.siblings or ()
    return Listing(
        info.sha,
        {file.rfilename: file.size or 0 for file in files},
        {file.rfilename: file.lfs.sha256 for file in files if file.lfs is not None},
    )


def check_unanswered(name: HubName, error: Exception) -> None:
    """Return if `error` says that the Hub cannot be asked at all; any other one is raised, as a HubError."""
    if not (is_offline(error) or is_unreachable(error)):
        with explained(name):
            raise error


def without_the_hub(name: HubName, error: Exception, found: T | None, commit: str, stacklevel: int) -> T:
    """Return what the cache has of a revision, where asking failed with `error`; warn unless that was asked for.

    Raises HubError if it has nothing: `found` is None.
    """
    if is_offline(error):
        if found is None:
            raise HubError(
                f"{name} is not in the Hub's cache, or not all of it, and HF_HUB_OFFLINE is set; unset it once to "
                "fetch it, or copy the cache (HF_HOME) from where it was fetched"
            ) from error
        return found
    if found is None:
        with explained(name):
            raise error
    warnings.warn(
        f"the Hub does not answer, and {name} is taken from its cache as it was when last asked, commit {commit}",
        RuntimeWarning,
        stacklevel=stacklevel + 1,
    )
    return found
