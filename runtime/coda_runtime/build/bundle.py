"""Engines for the ONNX files of a bundle, added to it: all of them, or the bundle stays as it was."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..backends.tensorrt.library import EngineLibrary, find_library
from ..errors import BuildError, InputError, OutputError
from ..format.bundle import Bundle, describe_file, seal
from ..format.engine_key import EngineKey, system
from ..format.manifest import CHECKSUMS_NAME, MANIFEST_NAME, Artifact, Manifest
from ..format.parts import ENCODER, PARTS, has_precisions
from ..format.precision import PRECISIONS, how_to_add
from ..format.profiles import added
from ..io.atomic_files import staged_folder
from ..machine.devices import Gpu, find_gpu
from .builder import Watch, build_engine
from .measuring import with_parity
from .memory import PartMemory, estimate_memory
from .options import BuildOptions

FOLDER = "engines"
# What TensorRT-RTX builds for when nothing is named: all data-centre and desktop GPUs it knows from Ampere on.
_PORTABLE = ("sm80", "sm86", "sm89", "sm120")


@dataclasses.dataclass(frozen=True)
class EngineRequest:
    """Which engines to build: `library` is "tensorrt" or "tensorrt-rtx"; no `precisions` means all the bundle has.

    Where there are several batch profiles, `report` is told the memory of each in every part, before the first engine
    is built; what it raises stops the build.
    """

    library: str
    options: BuildOptions = dataclasses.field(default_factory=BuildOptions)
    precisions: tuple[str, ...] = ()
    report: Callable[[Sequence[PartMemory]], None] = dataclasses.field(
        default=lambda _: None, compare=False, repr=False
    )


def check_request(request: EngineRequest) -> tuple[EngineLibrary, BuildOptions, Gpu | None]:
    """Return the library, the options with their targets, and the GPU they are built on, None if none is needed.

    Raises InputError, MissingDependencyError, BackendError, and BuildError where the library needs a GPU.
    """
    library = find_library(request.library)
    request.options.check_for(library)
    if library.targets:
        targets = request.options.targets or tuple(name for name in _PORTABLE if name in library.targets)
        return library, dataclasses.replace(request.options, targets=targets), None
    gpu = find_gpu()
    if gpu is None:
        raise BuildError(
            f"{library.title} builds for the GPU it runs on, and the NVIDIA driver shows none here; run `coda build` "
            "on the target machine, or take --engine tensorrt-rtx, which builds for named GPUs anywhere"
        )
    return library, request.options, gpu


def write_engines(
    folder: Path,
    manifest: Manifest,
    request: EngineRequest,
    *,
    progress: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda *_: None,
) -> list[Artifact]:
    """Build an engine for each ONNX file asked for, into `folder`/engines, and return their artifacts, unmeasured.

    `progress` is told which engine comes next, `watch` the builder's own phases. Raises as `check_request` and
    `build_engine` do, and InputError when the bundle lacks a precision.
    """
    library, options, gpu = check_request(request)
    sources = _sources(manifest, request.precisions)
    if (folder / FOLDER).is_symlink():
        raise OutputError(f"{FOLDER} in the bundle is a link, and engines would be written where it leads; remove it")
    (folder / FOLDER).mkdir(exist_ok=True)
    targets = options.targets or ((gpu.capability,) if gpu else ())
    unmade = Bundle(folder, manifest, b"")
    plans = []
    for source in sources:
        file = _file(source, library, targets, options, gpu)
        plans.append((source, file, _own_options(manifest, source, file, options)))
    if len(options.profiles) > 1:
        request.report([_memory(unmade, library, source, own) for source, _, own in plans])
    out = []
    for source, file, own in plans:
        progress(f"building the {source.precision} {source.part} with {library.title}")
        graph = unmade.read(source)  # the engine will be said to come of this SHA-256
        built = build_engine(library, folder / source.file, own, precision=source.precision, read=graph, watch=watch)
        del graph
        destination = folder / file
        destination.unlink(missing_ok=True)  # it may be a link to the engine of the bundle that is being replaced
        destination.write_bytes(built.data)
        key = EngineKey.made_here(
            library=library.name,
            library_version=library.version,
            targets=targets,
            onnx=source,
            flags=own.flags(),
            gpu=gpu.name if gpu else None,
            driver=gpu.driver if gpu else None,
            layers=built.layers,
            scratch_bytes=built.scratch_bytes,
        )
        digest, size = describe_file(folder, file)
        about = (source.part, library.name, source.precision, file, digest, size)
        out.append(Artifact(*about, engine=key.to_json()).with_profiles(own.profiles))
    return out


def _memory(bundle: Bundle, library: EngineLibrary, source: Artifact, options: BuildOptions) -> PartMemory:
    profiles = estimate_memory(library, bundle.path(source), bundle.read(source), options.profiles)
    return PartMemory(source.part, source.precision, profiles)


def add_engines(
    bundle: str | os.PathLike[str],
    request: EngineRequest,
    *,
    out: str | os.PathLike[str] | None = None,
    measure: Callable[[Bundle, Artifact], Artifact] = with_parity,
    progress: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda *_: None,
) -> Manifest:
    """Build engines for the bundle in a folder, and write it with them to `out`, or in its own place.

    `measure` returns an artifact with its parity, or raises. Engines of the same part, precision, library and targets
    are replaced. The bundle is verified first; whatever fails leaves it as it was. Raises as `write_engines` does,
    BundleError for a bundle that is broken, OutputError when it cannot be written.
    """
    check_request(request)
    source = Bundle.open(bundle)
    source.verify()
    with extending(source, "its engines were built", out) as folder:
        made = build_into(folder, source.manifest, request, measure=measure, progress=progress, watch=watch)
        return seal(folder, made)


@contextmanager
def extending(source: Bundle, doing: str, out: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yield a folder with the bundle's files, to be added to and sealed; it takes the bundle's place in the end.

    With `out` it becomes that folder, which must not exist, and the bundle stays. Files are links to the bundle's own
    where they can be: a file that is to differ is removed first. `doing` says what took the time in which somebody else
    has changed the bundle. Raises InputError, OutputError; whatever fails leaves the bundle as it was.
    """
    if out is None:
        target = source.folder.resolve()
        _check_destination(target)
    else:
        target = Path(out)
        if target.exists():
            raise InputError(f"{target} exists; name a folder that does not, or omit --out to extend the bundle")
    before = (source.folder / MANIFEST_NAME).read_bytes()
    with staged_folder(target, replace=True) as folder:
        (copy_bundle if out is not None else link_bundle)(source, folder)
        yield folder
        if (source.folder / MANIFEST_NAME).read_bytes() != before:
            raise OutputError(f"{source.folder} was changed while {doing}, perhaps by another build; run again")


def build_into(
    folder: Path,
    manifest: Manifest,
    request: EngineRequest,
    *,
    measure: Callable[[Bundle, Artifact], Artifact] = with_parity,
    progress: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda *_: None,
) -> Manifest:
    """Build engines from and into a folder that is being made, and return its manifest with them, not yet written.

    Raises as `add_engines` does.
    """
    made = write_engines(folder, manifest, request, progress=progress, watch=watch)
    opened = Bundle(folder, with_engines(manifest, made), b"")
    measured = []
    for artifact in made:
        progress(f"measuring {artifact.file}")
        measured.append(measure(opened, artifact))
    return with_engines(manifest, measured)


def with_engines(manifest: Manifest, engines: Sequence[Artifact]) -> Manifest:
    """Return the manifest with these engines, in place of those they supersede."""
    files = {engine.file for engine in engines}
    kept = tuple(artifact for artifact in manifest.artifacts if artifact.file not in files)
    return dataclasses.replace(manifest, artifacts=(*kept, *engines))


def copy_bundle(source: Bundle, folder: Path) -> None:
    """Copy the bundle's own files, and nothing else that lies in its folder."""
    for artifact in source.manifest.artifacts:
        destination = folder / artifact.file
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path(artifact), destination)


def link_bundle(source: Bundle, folder: Path) -> None:
    """Fill the folder that is going to replace the bundle's: with all that lies there, a README say, as it lies there.

    Content is not copied where the file system can share it: the old folder goes. Links stay links.
    """
    for path in sorted(source.folder.rglob("*")):
        name = path.relative_to(source.folder)
        destination = folder / name
        if path.is_symlink():
            destination.symlink_to(path.readlink())
        elif path.is_dir():
            destination.mkdir(exist_ok=True)
        elif name.as_posix() not in (MANIFEST_NAME, CHECKSUMS_NAME):
            try:
                os.link(path, destination)
            except OSError:  # a file system without hard links
                shutil.copy2(path, destination)


def _check_destination(folder: Path) -> None:
    """Raise OutputError where a bundle could not be replaced after its engines have been built, which takes minutes."""
    if Path.cwd().is_relative_to(folder):
        raise OutputError(
            f"{folder} is going to be replaced as a whole, and is the current folder; run this from outside it, or "
            "write the new bundle elsewhere with --out"
        )
    if os.path.ismount(folder) or not os.access(folder.parent, os.W_OK):
        raise OutputError(
            f"{folder} cannot be replaced as a whole, because it is a mount point or its parent folder is read-only; "
            "write the new bundle elsewhere with --out"
        )


def _file(
    source: Artifact, library: EngineLibrary, targets: Sequence[str], options: BuildOptions, gpu: Gpu | None
) -> str:
    """Return an engine's name in the bundle: engines that may both be wanted have different ones."""
    words = [library.name, *targets]
    if gpu is not None and options.hardware == "none":  # it fits this model alone
        words.append(re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-"))
    elif gpu is not None:
        words.append(options.hardware)
    if gpu is not None:
        words.append(system())
    return f"{FOLDER}/{source.part}.{source.precision}.{'-'.join(words)}.engine"


def _own_options(manifest: Manifest, source: Artifact, file: str, options: BuildOptions) -> BuildOptions:
    """Return one part's options. The quantizer serves every precision: a new one also takes the old one's batches."""
    old = next((artifact for artifact in manifest.artifacts if artifact.file == file), None)
    if has_precisions(source.part) or old is None or not old.profiles:
        return options
    if len(options.profiles) == len(old.profiles) == 1:
        ((low, best, high),), ((old_low, _, old_high),) = options.profiles, old.profiles
        return dataclasses.replace(options, batch=(min(low, old_low), best, max(high, old_high)))
    return dataclasses.replace(options, batch=added(options.profiles, old.profiles))


def _sources(manifest: Manifest, precisions: Sequence[str]) -> list[Artifact]:
    """Return the ONNX files to build from, in the order of the data."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is unknown, expected some of {', '.join(PRECISIONS)}")
        if not manifest.find(ENCODER.name, format="onnx", precision=precision):
            found = ", ".join(dict.fromkeys(a.precision for a in manifest.find(ENCODER.name, format="onnx")))
            raise InputError(
                f"the bundle has no ONNX files in {precision!r} to build from, only in {found or 'no precision'}; "
                f"{how_to_add(precision)}"
            )
    wanted = set(precisions)
    out = []
    for part in PARTS:
        files = manifest.find(part, format="onnx")
        wanted_here = wanted if wanted and has_precisions(part) else PRECISIONS
        out += [file for file in files if file.precision in wanted_here]
    if not out:
        raise InputError("the bundle has no ONNX files to build engines from; export it again with `coda export`")
    return out
