"""From what was given to what is meant, a local path or a name on the Hub; and to a bundle's folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BundleNotFoundError, InputError
from ..io.user_folders import expand_home
from .fetch import fetch
from .names import HubName, is_hub_name, parse_hub_name


def find_bundle(path_or_hub_id: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Find the bundle's folder: one here, or a snapshot in the Hub's cache.

    Args:
        path_or_hub_id: a path, or "org/name", or "org/name@revision". A path that exists comes first, and "org/name"
            is fetched only where there is no folder `org` either; with a revision, the Hub is meant.
        revision: a branch, tag or commit hash, instead of "@revision".

    Raises:
        BundleNotFoundError: there is no such folder, or the repository is no bundle.
        BundleError: what was fetched is broken, altered or made by a newer coda.
        InputError: a revision of something that is not a Hub id.
        HubError, MissingDependencyError: the Hub did not deliver.
    """
    if not isinstance(path_or_hub_id, (str, os.PathLike)) or not os.fspath(path_or_hub_id):
        raise BundleNotFoundError(f"{path_or_hub_id!r} names no bundle; expected a folder's path or a Hub id")
    location = path_or_name(path_or_hub_id, revision)
    if location is None:
        raise BundleNotFoundError(
            f"there is no folder {os.fspath(path_or_hub_id)!r}; expected a bundle, which `coda export` makes, or a "
            "Hub id such as org/name"
        )
    return fetch(location) if isinstance(location, HubName) else location


def path_or_name(path_or_hub_id: str | os.PathLike[str], revision: str | None = None) -> Path | HubName | None:
    """Return what is meant: a path that exists, a name on the Hub, or None for what is neither; by the rules above.

    Raises InputError for a revision of something that is not a Hub id.
    """
    if revision is not None:
        if not is_hub_name(path_or_hub_id):
            raise InputError(
                f"revision is {revision!r}, and {os.fspath(path_or_hub_id)!r} is not a Hub id such as org/name; a "
                "folder has no revisions: leave it out"
            )
        return parse_hub_name(path_or_hub_id, revision)
    path = expand_home(path_or_hub_id)
    if path.exists():
        return path
    # A mistyped path has its parent here; asking the Hub for it would take long and explain nothing.
    if not is_hub_name(path_or_hub_id) or (path.parent.exists() and "@" not in os.fspath(path_or_hub_id)):
        return None
    return parse_hub_name(path_or_hub_id)
