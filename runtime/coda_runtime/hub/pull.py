"""A bundle from the Hub into a folder of one's own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..build.bundle import copy_bundle
from ..errors import InputError
from ..format.bundle import Bundle
from ..format.manifest import CHECKSUMS_NAME, MANIFEST_NAME
from ..hub_source.fetch import fetch
from ..hub_source.names import parse_hub_name
from ..io.atomic_files import staged_folder


@dataclass(frozen=True)
class Pulled:
    """What was pulled: the repository, the commit that its revision was, and the size of all files in bytes."""

    repo: str
    commit: str
    folder: Path
    bytes: int


def pull(hub_id: str, out: str | os.PathLike[str], *, revision: str | None = None) -> Pulled:
    """Download a bundle's files, and no others, into the folder `out`, which must not exist or be empty.

    Every file is read again and checked where it lies in the end. A download that was interrupted goes on from the
    Hub's cache; `out` is there only when it is complete.

    Args:
        hub_id: "org/name" or "org/name@revision".
        out: the folder to make.
        revision: a branch, tag or commit hash, instead of "@revision"; the default is main.

    Raises InputError, OutputError, and as `find_bundle` does.
    """
    name, target = parse_hub_name(hub_id, revision), Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} exists; name a folder that does not")
    source = Bundle.open(fetch(name))
    with staged_folder(target) as folder:
        copy_bundle(source, folder)
        for file in (MANIFEST_NAME, CHECKSUMS_NAME):
            if (source.folder / file).exists():
                shutil.copyfile(source.folder / file, folder / file)
        Bundle.open(folder).verify("always")
    size = sum(artifact.bytes for artifact in source.manifest.artifacts)
    return Pulled(name.repo, source.folder.name, target, size)
