"""Chosen files of a repository into the Hub's cache: all of one commit, no larger than expected, whole, and hashed."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HubError
from ..format.checksums import sha256_file
from ..io.counts import count
from ..io.hub_cache import forget, sha256_of_blob, snapshot_of
from .client import downloading, require_hub
from .names import HubName
from .repository import Listing, check_unanswered, list_files, without_the_hub

Choice = Mapping[str, int]
"""Files that belong together: {name in the repository: the most bytes that it may have}."""


@dataclass(frozen=True)
class Fetched:
    """Files of one commit: where each lies in the cache, and its SHA-256 as it was read there.

    Files may be exchanged after that: whoever loads one hashes what it loads, and compares.
    """

    name: HubName
    commit: str
    paths: Mapping[str, Path]
    sha256: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """The snapshot in the cache that the files lie in."""
        return _snapshot(self.paths)


def fetch_files(name: HubName, choices: Sequence[Choice]) -> Fetched:
    """Fetch the first of `choices` that a revision has completely, and nothing else.

    The revision is resolved to a commit first, and all files are those of that commit. A commit that is in the cache
    is taken from there; of a branch or a tag the Hub is asked. Where it cannot be asked, the newest that is in the
    cache is taken, with a RuntimeWarning unless HF_HUB_OFFLINE says so. A file that is not the one that the Hub lists
    is removed from the cache.

    Raises HubError: the Hub did not deliver, has none of `choices`, or has a file that is larger than it may be.
    MissingDependencyError without huggingface_hub.
    """
    hub = require_hub(name)
    if name.pinned and (kept := _cached(hub, name, choices)) is not None:
        return kept
    try:
        listing = list_files(hub, name)
    except Exception as error:
        check_unanswered(name, error)
        found = _cached(hub, name, choices)
        return without_the_hub(name, error, found, found.commit if found else "", stacklevel=2)
    choice = first_complete(choices, listing.sizes)
    if choice is None:
        raise HubError(
            f"{name}, commit {listing.commit[:12]}, {lacking(choices, listing.sizes)}; check the name and the revision"
        )
    return _download(hub, name, listing, choice)


def first_complete(choices: Sequence[Choice], present: Container[str]) -> Choice | None:
    """Return the first choice whose files are all there."""
    return next((choice for choice in choices if all(file in present for file in choice)), None)


def lacking(choices: Sequence[Choice], present: Container[str]) -> str:
    """Say what is not there, for a message: of the choice that is nearest to complete, and all that were looked for."""
    missing = [[file for file in choice if file not in present] for choice in choices]
    nearest = min(zip(choices, missing, strict=True), key=lambda pair: len(pair[1]) - len(pair[0]))[1]
    looked_for = ", or for ".join(" and ".join(choice) for choice in choices)
    return f"lacks {' and '.join(nearest)}: looked for {looked_for}"


def _download(hub: Any, name: HubName, listing: Listing, choice: Choice) -> Fetched:
    for file, max_bytes in choice.items():
        if listing.sizes[file] > max_bytes:
            raise HubError(
                f"{name} has a {file} of {count(listing.sizes[file], 'byte')}, expected {max_bytes:,} at most; nothing "
                "was downloaded: check the name and what it is said to be"
            )
    paths = {}
    for file in choice:
        with downloading(name, listing.sizes[file]):
            paths[file] = Path(hub.hf_hub_download(name.repo, file, revision=listing.commit))
    if name.revision != listing.commit:
        # So the cache learns what the name stands for, and finds it without the Hub; last, when all is there.
        smallest = min(choice, key=lambda file: listing.sizes[file])
        with downloading(name, listing.sizes[smallest]):
            hub.hf_hub_download(name.repo, smallest, revision=name.revision)
    return _hashed(name, listing.commit, paths, listing.sha256)


def _cached(hub: Any, name: HubName, choices: Sequence[Choice]) -> Fetched | None:
    """Return what the cache has of a revision if it is complete and whole; the network is not used."""
    found = {
        file: Path(path)
        for choice in choices
        for file in choice
        # It may also be a sign that the file does not exist on the Hub.
        if isinstance(path := hub.try_to_load_from_cache(name.repo, file, revision=name.revision), str)
    }
    choice = first_complete(choices, found)
    if choice is None:
        return None
    paths = {file: found[file] for file in choice}
    try:
        return _hashed(name, _snapshot(paths).name, paths, {})
    except HubError:
        return None


def _hashed(name: HubName, commit: str, paths: Mapping[str, Path], listed: Mapping[str, str]) -> Fetched:
    sha256 = {file: sha256_file(path) for file, path in paths.items()}
    for file, found in sha256.items():
        expected = listed.get(file) or sha256_of_blob(paths[file])
        if expected is not None and found != expected:
            forget(_snapshot(paths), [file])
            raise HubError(
                f"{file} of {name} has SHA-256 {found[:12]}..., and the Hub lists {expected[:12]}...: it was damaged "
                "on its way and is removed from the cache; run it again"
            )
    return Fetched(name, commit, paths, sha256)


def _snapshot(paths: Mapping[str, Path]) -> Path:
    file, path = next(iter(paths.items()))
    return snapshot_of(path, file)
