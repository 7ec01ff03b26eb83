"""A bundle to the Hub: its own files and a model card, in one commit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ChecksumError, HubError, InputError, ManifestError
from ..format.bundle import Bundle
from ..format.manifest import CHECKSUMS_NAME, MANIFEST_NAME, Manifest
from ..hub_source.client import explained, quiet_in_a_pipe, require_hub
from ..hub_source.fetch import download_small
from ..hub_source.names import MAIN, HubName, parse_hub_name
from ..hub_source.repository import Listing, list_files
from .card import MARK, PICTURE, README, card_text, write_picture

_SMALL = 16 << 20
"""Bytes up to which a file is uploaded from memory. From a path, the Hub takes larger ones by their hash alone."""


@dataclass(frozen=True)
class Upload:
    """What becomes a file of the commit: its bytes or its path, its size, and the SHA-256 that it must have."""

    source: bytes | str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Pushed:
    """What was pushed: `url` shows the commit; `card` says whether the model card was written."""

    repo: str
    revision: str
    commit: str
    url: str
    bytes: int
    card: bool


def push(
    bundle: str | os.PathLike[str],
    hub_id: str,
    *,
    revision: str | None = None,
    private: bool = False,
    message: str = "",
    overwrite_card: bool = False,
) -> Pushed:
    """Upload a bundle to a model repository, which is made if there is none, in one commit.

    Every file is read and checked first. Only the bundle's own files go, and the model card with its images. What
    the manifest of the commit before lists and this one does not is deleted; other files stay.

    Args:
        bundle: the folder.
        hub_id: "org/name" or "org/name@branch".
        revision: the branch, instead of "@branch"; it is made from main if there is none.
        private: whether a repository that is made is private; one that exists stays what it is.
        message: of the commit.
        overwrite_card: write the model card also where somebody wrote another README.md.

    Raises:
        BundleError: the bundle is broken.
        InputError: a name, or a file of the bundle that stands where the model card goes.
        HubError: there is no token, or the Hub refuses; the revision has a manifest.json of something else.
        MissingDependencyError: without huggingface_hub, or Pillow for a bundle with photographs.
    """
    name, source = parse_hub_name(hub_id, revision), Bundle.open(bundle)
    if name.pinned:
        raise InputError(f"{name.revision!r} is a commit, and cannot be added to; name a branch")
    taken = {README.casefold(), PICTURE.casefold()}
    clash = [artifact.file for artifact in source.manifest.artifacts if artifact.file.casefold() in taken]
    if clash:
        raise InputError(f"{source.folder} has {clash[0]}, where the model card goes; give that file another name")
    hub = require_hub(name)
    if hub.get_token() is None:
        raise HubError(
            "there is no token for the Hugging Face Hub, and a push needs one; log in (hf auth login), or set HF_TOKEN"
        )
    source.verify("always")
    files = _files(source)
    with tempfile.TemporaryDirectory() as scratch:
        card = _card(source, name, Path(scratch))  # before anything is made on the Hub, for it may fail
        with explained(name), quiet_in_a_pipe():
            before = _open_branch(hub, name, private)
            gone = _superseded(hub, name, before) - files.keys()
            has_card = overwrite_card or _may_write_card(hub, name, before)
            files |= card if has_card else {}
            done = _commit(hub, name, before, files, gone, message or f"{source.spec.variant}, pushed by coda")
            _check_arrived(list_files(hub, HubName(name.repo, done.oid)), files)
    size = sum(artifact.bytes for artifact in source.manifest.artifacts)
    return Pushed(name.repo, name.revision, done.oid, done.commit_url, size, has_card)


def _open_branch(hub: Any, name: HubName, private: bool) -> Listing:
    """Make the repository and the branch where they are missing; what the branch holds."""
    api = hub.HfApi()
    api.create_repo(name.repo, private=private or None, exist_ok=True)
    if name.revision != MAIN:
        api.create_branch(name.repo, branch=name.revision, exist_ok=True)
    return list_files(hub, name)


def _commit(
    hub: Any, name: HubName, before: Listing, files: Mapping[str, Upload], gone: Iterable[str], message: str
) -> Any:
    """Add `files` and delete `gone` in one commit on top of `before`."""
    operations = [hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=up.source) for file, up in files.items()]
    for operation, up in zip(operations, files.values(), strict=True):
        # The Hub takes what has the hash that was found just now.
        found = operation.upload_info.sha256.hex()
        if up.sha256 is not None and found != up.sha256:
            raise ChecksumError(
                f"{up.source!r} has SHA-256 {found[:12]}..., but the manifest says {up.sha256[:12]}...: it was altered "
                "while it was pushed; copy, download or export the bundle again"
            )
    operations += [hub.CommitOperationDelete(path_in_repo=file) for file in sorted(gone)]
    return hub.HfApi().create_commit(
        name.repo, operations, commit_message=message, revision=name.revision, parent_commit=before.commit
    )


def _files(bundle: Bundle) -> dict[str, Upload]:
    """Return {name in the repository: what to upload} of a bundle. Raises ChecksumError for what is not as it was."""
    out = {file: Upload(data, len(data)) for file, data in bundle.read_lists().items()}
    for artifact in bundle.manifest.artifacts:
        small = artifact.bytes <= _SMALL
        source = bundle.read(artifact) if small else str(bundle.path(artifact).resolve())
        out[artifact.file] = Upload(source, artifact.bytes, artifact.sha256)
    return out


def _may_write_card(hub: Any, name: HubName, before: Listing) -> bool:
    """Return whether there is no README yet, or one of ours that nobody has taken over."""
    if README not in before.sizes:
        return True
    return MARK in download_small(hub, name, before, README).read_text(encoding="utf-8", errors="replace")


def _superseded(hub: Any, name: HubName, before: Listing) -> set[str]:
    """Return the bundle's files of the commit before. Raises HubError if its manifest.json is of something else."""
    if MANIFEST_NAME not in before.sizes:
        return set()
    data = download_small(hub, name, before, MANIFEST_NAME).read_bytes()
    try:
        listed = {artifact.file for artifact in Manifest.parse(data).artifacts}
    except ManifestError as error:
        raise HubError(
            f"{name} has a {MANIFEST_NAME} that is not a bundle's ({error}); push to another repository or branch, or "
            "delete that file there"
        ) from error
    return (listed | {CHECKSUMS_NAME}) & before.sizes.keys()


def _card(bundle: Bundle, name: HubName, scratch: Path) -> dict[str, Upload]:
    """Write the model card and its image, if the bundle has samples; {name in the repository: what to upload}."""
    picture = (scratch / "picture.png").read_bytes() if write_picture(bundle, scratch / "picture.png") else None
    card = card_text(bundle.manifest, name, picture is not None).encode()
    made = {README: card} if picture is None else {README: card, PICTURE: picture}
    return {file: Upload(data, len(data)) for file, data in made.items()}


def _check_arrived(after: Listing, files: Mapping[str, Upload]) -> None:
    # What a .gitignore in the repository names is left out without a word.
    missing = [file for file, up in files.items() if after.sizes.get(file) != up.size]
    if missing:
        raise HubError(
            f"commit {after.commit} lacks {', '.join(missing)}, or has it in another size; does the repository have a "
            ".gitignore? remove it and push again"
        )
