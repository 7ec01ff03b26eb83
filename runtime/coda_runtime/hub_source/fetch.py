"""A bundle from the Hub into the Hub's cache: only its own files, of the sizes it promises, and whole.

One commit is resolved first, and all files are those of that commit. The manifest comes alone and is read before
anything else is downloaded, so that a repository decides neither which files come nor how large they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import BundleError, BundleNotFoundError, ChecksumError, FormatVersionError, HubError
from ..format.bundle import Bundle
from ..format.manifest import CHECKSUMS_NAME, MANIFEST_NAME, MAX_BYTES
from ..io.counts import count
from ..io.hub_cache import forget
from .client import downloading, require_hub
from .names import HubName
from .repository import Listing, check_unanswered, list_files, without_the_hub


def fetch(name: HubName) -> Path:
    """Return the bundle's folder in the Hub's cache, complete; named after its commit.

    A commit that is in the cache is taken from there; of a branch or a tag the Hub is asked. Where it cannot be asked,
    because HF_HUB_OFFLINE says so or because it does not answer, the newest that is in the cache is taken, the latter
    with a RuntimeWarning. What was downloaded is checked; what does not pass is removed from the cache.

    Raises HubError, MissingDependencyError, BundleNotFoundError for a repository that is no bundle, BundleError for
    one that is broken.
    """
    hub = require_hub(name)
    if name.pinned and (folder := _pinned(hub, name)) is not None:
        return folder
    try:
        listing = list_files(hub, name)
    except Exception as error:
        check_unanswered(name, error)
        found = _cached(hub, name)
        return without_the_hub(name, error, found, found.name if found else "", stacklevel=4)
    try:
        folder = _download(hub, name, listing)
        _check(folder)
    except BundleError as problem:
        problem.args = (f"{name} on the Hugging Face Hub: {problem}",)
        raise
    return folder


def download_small(hub: Any, name: HubName, listing: Listing, file: str) -> Path:
    """Download a manifest or the like, of this commit and no more than 16 MiB. Raises HubError."""
    if listing.sizes[file] > MAX_BYTES:
        raise HubError(
            f"{name} has a {file} of {count(listing.sizes[file], 'byte')}, expected {MAX_BYTES:,} at most: that "
            "is not a "
            "coda bundle; check the name"
        )
    with downloading(name, listing.sizes[file]):
        # By the revision's name, not by its commit: so the cache learns the name, and finds it without the Hub.
        path = Path(hub.hf_hub_download(name.repo, file, revision=name.revision))
    if path.parent.name != listing.commit:
        raise HubError(f"{name} was changed while it was being fetched; run it again")
    return path


def _download(hub: Any, name: HubName, listing: Listing) -> Path:
    if MANIFEST_NAME not in listing.sizes:
        raise BundleNotFoundError(f"there is no {MANIFEST_NAME}, so it is not a bundle; `coda push` makes one")
    folder = download_small(hub, name, listing, MANIFEST_NAME).parent
    artifacts = _open(folder).manifest.artifacts
    for artifact in artifacts:
        found = listing.sizes.get(artifact.file)
        if found != artifact.bytes:
            has = "is not there" if found is None else f"has {count(found, 'byte')} there"
            raise ChecksumError(
                f"{artifact.file} {has}, but the manifest says {count(artifact.bytes, 'byte')}; nothing more was "
                "downloaded; ask its owner to push it again"
            )
    if CHECKSUMS_NAME in listing.sizes:
        download_small(hub, name, listing, CHECKSUMS_NAME)
    for artifact in artifacts:
        with downloading(name, artifact.bytes):
            hub.hf_hub_download(name.repo, artifact.file, revision=listing.commit)
    return folder


def _cached(hub: Any, name: HubName) -> Path | None:
    """Return the snapshot of a revision in the cache if all of it is there; the network is not used."""
    found = hub.try_to_load_from_cache(name.repo, MANIFEST_NAME, revision=name.revision)
    if not isinstance(found, str):  # None, or a sign that the file does not exist on the Hub
        return None
    bundle = _open(Path(found).parent)
    files = [artifact.file for artifact in bundle.manifest.artifacts]
    files += [CHECKSUMS_NAME] if bundle.manifest.checksums is not None else []
    return bundle.folder if all((bundle.folder / file).is_file() for file in files) else None


def _pinned(hub: Any, name: HubName) -> Path | None:
    """Return the snapshot of a commit in the cache if all of it is there and whole."""
    try:
        folder = _cached(hub, name)
        if folder is not None:
            _check(folder)
    except BundleError:
        return None
    return folder


def _check(folder: Path) -> None:
    """Verify a snapshot; remove from the cache what does not pass, for the next download would believe it."""
    problems = {file: problem for file, problem in _open(folder).check("cached") if problem is not None}
    if problems:
        forget(folder, [*problems, *([CHECKSUMS_NAME] if MANIFEST_NAME in problems else [])])
        raise next(iter(problems.values()))


def _open(folder: Path) -> Bundle:
    try:
        return Bundle.open(folder)
    except FormatVersionError:
        raise
    except BundleError:
        forget(folder, [MANIFEST_NAME])
        raise
