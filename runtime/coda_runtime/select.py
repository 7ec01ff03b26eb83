"""What may run here: the backends that load an artifact of a bundle, and for each the reason why it may not.

Loading, parity, building and whatever else has to know asks this module, so that they never disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .backends.base import Backend, LoadOptions
from .backends.registry import automatic, get_backend, recordable, runs
from .backends.tensorrt.library import LIBRARIES
from .errors import BackendError, BundleError, CodaError, EngineMismatchError, InputError
from .format.bundle import Bundle
from .format.manifest import Artifact, Manifest
from .format.parts import PARTS, has_precisions
from .format.precision import PRECISIONS, how_to_add


@dataclass(frozen=True)
class Candidate:
    """A backend and an artifact in a format that it loads; `reason`: why that may not run here, None where it may."""

    backend: Backend
    artifact: Artifact
    reason: CodaError | None


@dataclass(frozen=True)
class Chosen:
    """What a part runs on; `passed_over` tells what was preferred to it, and why that may not run here."""

    backend: Backend
    artifact: Artifact
    passed_over: tuple[str, ...] = ()


def candidates(
    bundle: Bundle, artifacts: Sequence[Artifact], options: LoadOptions, preferred: str | None = None
) -> Iterator[Candidate]:
    """Yield each backend that loads one of these artifacts of the bundle, with it, most preferred first.

    The backends are the one that `options` names, or for "auto" those that may be chosen unasked, of which `preferred`
    comes first. Each is asked when it is its turn: whoever stops at the first that may run asks no more of them. Raises
    BackendError for an unknown name.
    """
    for backend in backends_for(options, artifacts, preferred):
        for artifact in artifacts:
            if artifact.format in backend.formats:
                yield Candidate(backend, artifact, _reason(backend, bundle, artifact, options))


def backends_for(options: LoadOptions, artifacts: Sequence[Artifact], preferred: str | None = None) -> list[Backend]:
    """Return the backends that `options` leave to load these artifacts, most preferred first; `preferred` if it is one.

    Raises BackendError for an unknown name, and for what is neither a name nor a backend.
    """
    if options.backend == "auto":
        names = automatic(artifacts)
        if preferred in recordable(artifacts):
            names = (preferred, *(name for name in names if name != preferred))
        return [get_backend(name) for name in names]
    return [named_backend(options)]


def named_backend(options: LoadOptions) -> Backend:
    """Return the backend that `options` name, or are given. Raises BackendError for an unknown name and for "auto"."""
    backend = options.backend
    if isinstance(backend, str):
        return get_backend(backend)
    if hasattr(backend, "formats") and hasattr(backend, "load"):
        return backend
    raise BackendError(f'backend is {backend!r}; expected a name, such as "auto", or a Backend')


def choose(bundle: Bundle, part: str, options: LoadOptions, preferred: str | None = None) -> Chosen:
    """Return what a part runs on here: the first candidate that may, for "auto" of those that were measured.

    `preferred` is the backend that "auto" asks first, if a record may name it.

    Raises InputError for a precision that the bundle lacks, BundleError for one that the part lacks, BackendError where
    no backend asked for loads its format, and the reason of the first candidate (for "auto" of the last) where none
    of them may.
    """
    precision = PARTS[part].precision or choose_precision(bundle.manifest, options.precision)
    artifacts = bundle.manifest.find(part, precision=precision)
    if not artifacts:
        found = ", ".join(sorted({artifact.precision for artifact in bundle.manifest.find(part)}))
        raise BundleError(
            f"{bundle.folder} has no {part} in {precision}, only in {found}; export it with --precision {precision}"
        )
    options = _for_part(options, part)
    unasked = options.backend == "auto"
    problems: list[CodaError] = []
    for candidate in candidates(bundle, artifacts, options, preferred):
        problem = candidate.reason
        if problem is None and unasked:
            problem = _unmeasured(bundle, candidate)
        if problem is None:
            return Chosen(candidate.backend, candidate.artifact, tuple(map(str, problems)))
        problems.append(problem)
    if not problems:
        raise _no_backend(bundle, part, precision, artifacts, options)
    # What is asked for by name is explained by its own problem; for "auto" the last, most general one is the way out.
    raise problems[-1] if unasked else problems[0]


def alternatives(bundle: Bundle, options: LoadOptions) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each backend that a record may name and that loads the encoder or decoder in a precision.

    With it comes why it may not run the whole bundle here, in the precision and on the device of `options`, None where
    it may. What a backend is not for goes by "auto". Raises InputError for a precision that the bundle lacks.
    """
    precision = choose_precision(bundle.manifest, options.precision)
    found = [a for part in PARTS if has_precisions(part) for a in bundle.manifest.find(part, precision=precision)]
    for backend in map(get_backend, recordable(found)):
        named = replace(options, backend=backend.name)
        problem: CodaError | None = None
        for part in PARTS:
            try:
                chosen = choose(bundle, part, named)
            except CodaError as error:
                problem = error
            else:
                problem = _unmeasured(bundle, Candidate(chosen.backend, chosen.artifact, None))
            if problem is not None:
                break
        yield backend.name, None if problem is None else str(problem)


def choose_precision(manifest: Manifest, asked: str) -> str:
    """Return the precision that is asked for, the manifest's default for "auto". Raises InputError for another."""
    if asked == "auto":
        return manifest.default_precision
    if asked not in manifest.precisions:
        known = f'precision is {asked!r}; this bundle has "auto", {", ".join(map(repr, manifest.precisions))}'
        if asked not in PRECISIONS:
            raise InputError(known)
        raise InputError(f"{known}; {how_to_add(asked)}")
    return asked


def _reason(backend: Backend, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
    """Return why an artifact may not run here on a backend, None where it may."""
    if backend.precisions is not None and artifact.precision not in backend.precisions:
        return BackendError(
            f"{artifact.file} is in {artifact.precision}, and {backend.name} runs {', '.join(backend.precisions)}; "
            "choose another backend or precision"
        )
    return backend.check(bundle, artifact, options)


def _for_part(options: LoadOptions, part: str) -> LoadOptions:
    """Return the options with the backend that a part goes by."""
    backend = options.backend
    if isinstance(backend, str) and not runs(backend, part):
        backend = "auto"
    if backend == "auto" and options.providers is not None:  # they are onnxruntime's, and say where to run
        backend = "onnxruntime"
    return replace(options, backend=backend)


def _unmeasured(bundle: Bundle, candidate: Candidate) -> EngineMismatchError | None:
    """Return why an engine is not chosen unasked: nobody knows what it computes."""
    artifact = candidate.artifact
    if artifact.engine is None or artifact.is_measured:
        return None
    return EngineMismatchError(
        f"{artifact.file} was never measured, since no machine that built it could run it; measure it here: "
        f'coda verify {bundle.folder} --parity --record, or ask for it by name: backend="{candidate.backend.name}"'
    )


def _no_backend(
    bundle: Bundle, part: str, precision: str, artifacts: Sequence[Artifact], options: LoadOptions
) -> BackendError:
    """Return the error for a part in formats that none of the backends asked for loads."""
    backends = backends_for(options, artifacts)
    formats = ", ".join(sorted({artifact.format for artifact in artifacts}))
    asked = ", ".join(backend.name for backend in backends) or 'backend="auto"'
    loaded = [name for backend in backends for name in backend.formats]
    engines = [name for name in loaded if name in LIBRARIES]
    if engines:
        way_out = f"build it: coda build {bundle.folder} --engine {engines[0]}"
    elif "ptx" in loaded:
        way_out = "export it with --engine ptx"
    else:
        way_out = "export it as onnx"
    return BackendError(
        f"{bundle.folder} has its {part} in {precision} only as {formats}, which {asked} cannot load; {way_out}"
    )
