"""TensorRT engines as Triton's plans: which belong together, how they are named, what the server must have."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from ..errors import ArtifactError, BundleError, EngineMismatchError, InputError
from ..format.bundle import Bundle
from ..format.engine_key import Capability, EngineKey, incompatibility
from ..format.manifest import Artifact
from ..format.parts import PARTS
from ..format.profiles import Batch, BatchSizes, profiles_text, span
from ..io.counts import count
from .parts import ServedFile, ServedPart, find


def plan_parts(bundle: Bundle, precision: str, max_batch: int | None) -> tuple[ServedPart, ...]:
    """Return the bundle's TensorRT engines in a precision, as models.

    Raises BundleError where a part has none or no server could load them together, EngineMismatchError for one that
    was built from another ONNX file or not for Linux, ArtifactError for one that the manifest does not describe,
    InputError for a `max_batch` that they do not take.
    """
    parts = []
    for part in PARTS:
        engines = find(bundle, part, "tensorrt", precision)
        if not engines:
            raise BundleError(_no_engine(bundle, part, precision))
        for engine in engines:
            _check_engine(bundle, engine)
        batches = [engine.profiles for engine in engines]
        largest = largest_batch(batches, max_batch, f"the {part}'s engines")
        preferred = {min(best, largest) for profiles in batches for _, best, _ in profiles} | {largest}
        numbers = _profile_numbers(part, engines, largest)
        parts.append(ServedPart(part, "tensorrt", _named(engines), largest, tuple(sorted(preferred)), numbers))
    _check_together(parts)
    return tuple(parts)


def largest_batch(batches: Sequence[Sequence[Batch]], wanted: int | None, whose: str) -> int:
    """Return the most images that all engines of these profiles take, or `wanted` if they take that many.

    Triton batches by itself, so that they have to take each size up to that. Raises InputError.
    """
    sizes = functools.reduce(operator.and_, map(BatchSizes.of, batches))
    smallest = max(profile[0] for profile in map(span, batches))
    if smallest > 1:
        raise InputError(
            f"{whose} take {count(smallest, 'image')} at least, and Triton also runs single ones: build them with "
            "--batch 1,..."
        )
    largest, gap = sizes.max, sizes.first_gap
    if gap is not None and (wanted is None or gap[0] <= wanted <= largest):
        raise InputError(
            f"{whose} take no batch from {gap[0]} to {gap[1]}, and Triton makes batches of any size: serve "
            f"{gap[0] - 1} at most, or build them with profiles that leave no gap, such as --batch 1,1,{gap[1]} "
            f"--batch {gap[1] + 1},{largest},{largest}"
        )
    if wanted is not None and wanted > largest:
        raise InputError(
            f"the largest batch is to be {wanted}, and {whose} take {count(largest, 'image')} at most: lower it, or "
            f"build them with --batch 1,...,{wanted}"
        )
    return wanted or largest


def check_measured(parts: Sequence[ServedPart], bundle: Bundle) -> None:
    """Raise EngineMismatchError for an engine that never ran where it could be compared with the tokenizer."""
    for file in _unmeasured(parts):
        raise EngineMismatchError(
            f"{file} was never measured; measure it where it runs: coda verify {bundle.folder} --parity --record, or "
            'ask for engines by the format "tensorrt"'
        )


def server_notes(parts: Sequence[ServedPart]) -> tuple[str, ...]:
    """Return what whoever starts the server has to know about these engines, a sentence each."""
    engines = _engines(parts)
    version, system = _key(engines[0]).library_version, _key(engines[0]).os
    notes = [f"the server needs TensorRT {version} on {system}"]
    if any(_key(engine).flags.version_compatible for engine in engines):
        notes = [
            f"the server needs TensorRT {version} on {system}, or with "
            "--backend-config=tensorrt,version-compatible=true a later one of the same major version: that lets the "
            "engines run code on its CPU"
        ]
    models = sorted({str(_key(engine).gpu) for engine in engines if _key(engine).flags.is_tuned})
    if models:
        notes.append(f"the engines were tuned on {', '.join(models)}: run them on no other model of GPU")
    never = _unmeasured(parts)
    if never:
        notes.append(f"never measured: {', '.join(never)}")
    return tuple(notes)


def _profile_numbers(part: str, engines: Sequence[Artifact], largest: int) -> tuple[int, ...]:
    """Return which batch profiles a server may use, by number; none where the engines have one each.

    A server sets each up for `largest` images, which one for more does not take. A model's config names them once, for
    whichever of its engines is loaded. Raises BundleError where the engines differ in that.
    """
    if all(len(engine.profiles) == 1 for engine in engines):
        return ()
    found = {
        tuple(number for number, (low, _, _) in enumerate(engine.profiles) if low <= largest): engine
        for engine in engines
    }
    if len(found) > 1:
        told = ", ".join(f"{engine.file}: {profiles_text(engine.profiles)}" for engine in found.values())
        raise BundleError(
            f"the {part}'s engines have different batch profiles ({told}), and Triton names them by number, the same "
            "for all: build them again with the same --batch"
        )
    return next(iter(found))


def _no_engine(bundle: Bundle, part: str, precision: str) -> str:
    text = f"{bundle.folder} has no TensorRT engine for the {part} in {precision}"
    if find(bundle, part, "tensorrt-rtx", precision):
        text += " (only TensorRT-RTX's, for which Triton has no backend)"
    return f"{text}; build it on the target machine: coda build {bundle.folder} --engine tensorrt"


def _check_engine(bundle: Bundle, engine: Artifact) -> None:
    """Raise EngineMismatchError where no Linux server can be right for an engine, ArtifactError for a broken entry."""
    key = _key(engine)
    system = str(key.os)
    # The server's version and GPU are not known here: the engine is compared with its own.
    problem = incompatibility(
        engine,
        bundle.manifest,
        library="tensorrt",
        library_version=str(key.library_version),
        compute_capability=None,
        os=system,
    )
    if problem is not None:
        raise problem
    if not system.startswith("linux-"):
        raise EngineMismatchError(
            f"{engine.file} was built on {system}, and Triton's containers run Linux: build it there"
        )
    for target in key.targets:
        if Capability.parse(target) is None:
            raise ArtifactError(f"{engine.file} is for {target!r} by the manifest; expected a name such as sm89")


def _key(engine: Artifact) -> EngineKey:
    return EngineKey.from_json(engine.engine)


def _engines(parts: Sequence[ServedPart]) -> list[Artifact]:
    return [file.artifact for part in parts for file in part.files]


def _named(engines: Sequence[Artifact]) -> tuple[ServedFile, ...]:
    """Return the engines with their names: model.plan for a single one, else one for each compute capability."""
    if len(engines) == 1:
        return (ServedFile(engines[0], "model.plan"),)
    out: dict[str | None, ServedFile] = {}
    for engine in engines:
        for target in _key(engine).targets:
            everywhere = _key(engine).flags.runs_from_ampere
            capability = None if everywhere else str(Capability.parse(target))
            if capability in out:
                raise BundleError(
                    f"{out[capability].artifact.file} and {engine.file} are for the same compute capability, and "
                    "Triton chooses by nothing else; make a bundle and a repository for each: coda build --out"
                )
            out[capability] = ServedFile(engine, "model.plan" if everywhere else f"model.{target}.plan", capability)
    return tuple(out.values())


def _check_together(parts: Sequence[ServedPart]) -> None:
    """Raise BundleError for engines that no single server could load."""
    for what, name in (("versions of TensorRT", "library_version"), ("systems", "os")):
        found = {str(getattr(_key(engine), name)) for engine in _engines(parts)}
        if len(found) > 1:
            raise BundleError(
                f"the engines are for several {what} ({', '.join(sorted(found))}), and a server has one: "
                "build them again together, coda build --engine tensorrt"
            )
    targets = {part.part: sorted({name for e in _engines([part]) for name in _key(e).targets}) for part in parts}
    if len({tuple(names) for names in targets.values()}) > 1:
        told = "; ".join(f"{part}: {', '.join(names)}" for part, names in targets.items())
        raise BundleError(f"the parts have engines for different GPUs ({told}); build the missing ones: coda build")


def _unmeasured(parts: Sequence[ServedPart]) -> list[str]:
    return list(dict.fromkeys(engine.file for engine in _engines(parts) if not engine.is_measured))
