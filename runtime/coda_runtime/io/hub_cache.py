"""The layout of the Hugging Face Hub's cache on disk, as far as coda looks into it.

A repository is a folder with `snapshots/COMMIT/FILE`, links into `blobs/`, where a file in LFS is named by its SHA-256.
On a file system without links the snapshots hold the files themselves. huggingface_hub writes it; what is here reads
it, and takes out files that are damaged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def blobs_of(folder: Path) -> Path | None:
    """Return the folder that the links in a snapshot lead to; None where `folder` is no snapshot of the cache."""
    blobs = folder.parent.parent / _BLOBS
    return blobs if folder.parent.name == _SNAPSHOTS and blobs.is_dir() else None


def snapshot_of(path: Path, file: str) -> Path:
    """Return the snapshot, the folder named after the commit, in which a repository's `file` lies at `path`."""
    return path.parents[len(PurePosixPath(file).parts) - 1]


def sha256_of_blob(path: Path) -> str | None:
    """Return what the cache calls a file in LFS, its SHA-256; None for another file, and where there are no links."""
    blob = path.resolve().name
    return blob if path.is_symlink() and _SHA256.fullmatch(blob) else None


def forget(snapshot: Path, files: Sequence[str]) -> None:
    """Remove files of a snapshot from the cache, for the next download would believe them."""
    blobs = (snapshot.parent.parent / _BLOBS).resolve()
    for file in files:
        link = snapshot / file
        blob = link.resolve()
        link.unlink(missing_ok=True)
        if blob.is_relative_to(blobs):
            blob.unlink(missing_ok=True)
