"""Writes the repository: its folders, its configs, copies of the bundle's files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import OutputError
from ..format.bundle import Bundle
from ..format.checksums import check_file, sha256_file
from ..format.manifest import MANIFEST_NAME
from ..format.parts import PARTS
from ..hub_source import find_bundle
from ..io.atomic_files import staged_folder
from .configs import ENSEMBLES, ensemble_config, max_batch, part_config
from .options import RepositoryOptions
from .parts import ServedPart
from .pbtxt import Message, render
from .selection import Selection, select

MODELS = (*PARTS, *ENSEMBLES)
CONFIG = "config.pbtxt"
VERSION = "1"
_MARK = "Written by coda-runtime"
_KEEP = ".gitkeep"  # object stores and git know no empty folders, and an ensemble needs its version folder


@dataclass(frozen=True)
class Repository:
    """A model repository that was written. `format` is "onnx" or "tensorrt"; `max_batch` is by model, in images.

    `notes` are for whoever starts the server: what has to match, and what was skipped.
    """

    folder: Path
    format: str
    precision: str
    max_batch: Mapping[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "folder": str(self.folder), "notes": list(self.notes)}


def write_repository(
    bundle: str | os.PathLike[str], repo: str | os.PathLike[str], options: RepositoryOptions | None = None
) -> Repository:
    """Write a Triton model repository for a bundle (folder or Hub id) into the folder `repo`.

    It gets the models encoder, quantizer and decoder, and the ensembles encode (image uint8 [B,H,W,3] -> ids int32
    [B,L]) and decode (ids -> image). Other models in `repo` stay; those of these names are replaced if coda wrote
    them. Every file of the bundle is verified first, every copy after.

    Raises InputError, BundleError, EngineMismatchError as `select` does, ChecksumError for a damaged bundle,
    OutputError for a place that `check_destination` refuses or that cannot be written. All is ready beside `repo`
    before its first file moves there.
    """
    options = options or RepositoryOptions()
    opened = Bundle.open(find_bundle(bundle))
    target = Path(repo)
    check_destination(target, opened.folder)
    chosen = select(opened, options)
    opened.verify("always")
    configs = _configs(opened, chosen, options)
    with staged_folder(target) as folder:
        for served in chosen.parts:
            _copy_files(opened, served, folder / served.part / VERSION)
        for name, config in configs.items():
            version = folder / name / VERSION
            version.mkdir(parents=True, exist_ok=True)
            if name in ENSEMBLES:
                (version / _KEEP).touch()
            (folder / name / CONFIG).write_text(render(config, _comments(opened, chosen, name)), encoding="ascii")
    for served in chosen.parts:
        _remove_stale(target / served.part / VERSION, served)
    sizes = {served.part: served.max_batch for served in chosen.parts}
    sizes |= {name: max_batch([p for p in chosen.parts if p.part in steps]) for name, steps in ENSEMBLES.items()}
    return Repository(target, chosen.parts[0].format, chosen.precision, sizes, chosen.notes)


def check_destination(repo: str | os.PathLike[str], bundle: str | os.PathLike[str]) -> None:
    """Raise OutputError where a repository for `bundle`, which need not exist yet, may not be written."""
    target, source = Path(repo), Path(bundle)
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; expected the name of a folder for Triton's models")
    if _overlap(target.resolve(), source.resolve()):
        raise OutputError(f"{target} and the bundle {source} are one inside the other; put them side by side")
    for model in MODELS:
        _check_model(target / model)
    nearest = next(path for path in (target, *target.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OutputError(
            f"{target} cannot be written, since {nearest} is not a folder or is read-only; choose another place"
        )


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _check_model(folder: Path) -> None:
    """Raise OutputError for a model that coda did not write, or that somebody has gone on with."""
    if not folder.exists() and not folder.is_symlink():
        return
    try:
        ours = not folder.is_symlink() and (folder / CONFIG).read_bytes().startswith(f"# {_MARK}".encode())
    except OSError:
        ours = False
    if not ours:
        raise OutputError(f"{folder} exists and was not written by coda; choose another folder, or remove it first")
    versions = [path.name for path in folder.iterdir() if path.is_dir() and path.name != VERSION]
    if versions:
        raise OutputError(
            f"{folder} also has {min(versions)!r}, which Triton might serve instead of what is written now; "
            "choose another folder, or remove it first"
        )


def _configs(bundle: Bundle, chosen: Selection, options: RepositoryOptions) -> dict[str, Message]:
    """Return {model: its config}."""
    digest = sha256_file(bundle.folder / MANIFEST_NAME)
    common = {"coda.manifest_sha256": digest, "coda.precision": chosen.precision}
    parts = {served.part: served for served in chosen.parts}
    configs: dict[str, Message] = {}
    for name, served in parts.items():
        files = {file.name: {"sha256": file.artifact.sha256, "parity": file.artifact.parity} for file in served.files}
        configs[name] = part_config(served, bundle.spec, options, {**common, "coda.files": json.dumps(files)})
    made_with = {"coda.made_with": json.dumps(bundle.fingerprints)}
    for name, steps in ENSEMBLES.items():
        configs[name] = ensemble_config(name, [parts[step] for step in steps], bundle.spec, {**common, **made_with})
    return configs


def _comments(bundle: Bundle, chosen: Selection, name: str) -> list[str]:
    about = [
        f"{_MARK} {__version__}. Changes here are lost when the repository is written again.",
        f"The bundle is {bundle.spec.variant!r} in {chosen.precision}.",
    ]
    for served in chosen.parts:
        if served.part == name:
            about += [f"{file.name} is the bundle's {file.artifact.file}" for file in served.files]
    if chosen.parts[0].format == "tensorrt":
        about += chosen.notes
    return about


def _copy_files(bundle: Bundle, served: ServedPart, version: Path) -> None:
    version.mkdir(parents=True)
    for file in served.files:
        shutil.copyfile(bundle.path(file.artifact), version / file.name)
        check_file(version / file.name, file.artifact.sha256, file.artifact.bytes, verify="always")


def _remove_stale(version: Path, served: ServedPart) -> None:
    """Remove what an earlier repository served, model.onnx beside model.plan say: it takes room, and nothing else."""
    names = {file.name for file in served.files}
    for path in [*version.glob("model*.onnx"), *version.glob("model*.plan")]:
        if path.name not in names:
            path.unlink(missing_ok=True)
