"""From a bundle's folder or Hub id to a tokenizer that runs: which artifact for each part, on which backend."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from .backends.base import Backend, LoadOptions, Provider, SelectiveBackend, Session
from .backends.registry import automatic, get_backend, runs
from .backends.tensorrt.library import LIBRARIES
from .errors import BackendError, BundleError, CodaError, EngineMismatchError, InputError
from .format.bundle import Bundle
from .format.checksums import Verify
from .format.manifest import PARTS, Artifact
from .hub_source import find_bundle
from .machine.devices import count_cuda_devices
from .tokenizer import LoadedArtifact, Tokenizer


def load(
    path_or_hub_id: str | os.PathLike[str],
    device: str = "auto",
    backend: str | Backend = "auto",
    precision: str = "auto",
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    *,
    verify: Verify = "cached",
    allow_host_code: bool = False,
    revision: str | None = None,
) -> Tokenizer:
    """Load a bundle.

    Args:
        path_or_hub_id: the bundle's folder, or the Hugging Face Hub id of one, "org/name" or "org/name@revision".
        device: "cpu", "cuda", "cuda:N", or "auto": a GPU if the engine library and the driver have one.
        backend: a backend's name, a `Backend` of your own, or "auto": the fastest that may load what the bundle has
            and was measured; `artifacts` of the tokenizer says what that was, and what it passed over and why. "cuda"
            is for the quantizer alone, the other parts go by "auto".
        precision: "fp32", "fp16", "bf16", or "auto": the manifest's default on every machine, so that ids do not
            depend on where they were made. The quantizer is always fp32.
        providers: onnxruntime's execution providers, passed through, instead of what `device` stands for.
        threads: CPU threads for one run, from 1; None leaves it to the engine library.
        verify: "cached" hashes files that changed since they were last checked, "always" hashes them all.
        allow_host_code: let engines bring code that runs on the CPU, as version-compatible TensorRT engines do.
            Allow it only for a bundle whose maker you trust. Every engine is code for the GPU; ONNX files are not code.
        revision: a branch, tag or commit hash of a Hub id, instead of "@revision"; with one, the Hub is meant even
            where there is a folder of that name. A commit hash pins the bundle, and needs no network once it is cached.

    Raises:
        BundleError: the bundle is missing, broken, altered, or made by a newer coda.
        EngineMismatchError: the backend asked for has only engines of another GPU, library, system or ONNX file.
        InputError: an argument is wrong, or the bundle lacks the precision.
        DeviceError, BackendError, MissingDependencyError, HubError: what was asked for is not there.
    """
    bundle = Bundle.open(find_bundle(path_or_hub_id, revision))
    options = LoadOptions(device, providers, threads, bundle.manifest, allow_host_code)
    bundle.verify(verify)
    if precision == "auto":
        precision = bundle.manifest.default_precision
    elif precision not in bundle.manifest.precisions:
        raise InputError(
            f'precision is {precision!r}; this bundle has "auto", {", ".join(map(repr, bundle.manifest.precisions))}'
        )
    sessions: dict[str, Session] = {}
    loaded: list[LoadedArtifact] = []
    try:
        for part in PARTS:
            engine, artifact, passed_over = choose(
                bundle, part, "fp32" if part == "quantizer" else precision, backend, options
            )
            try:
                session = sessions[part] = engine.load(bundle.path(artifact), artifact, options)
            except CodaError as error:
                if passed_over:
                    error.args = (f"{error} (passed over before: {'; '.join(passed_over)})",)
                raise
            about = (artifact.format, artifact.precision, engine.name, session.device, artifact.file)
            loaded.append(LoadedArtifact(part, *about, passed_over))
        _warn_of_idle_gpu(loaded)
        return Tokenizer(bundle, sessions, loaded)
    except BaseException:
        for session in sessions.values():
            session.close()
        raise


def choose(
    bundle: Bundle, part: str, precision: str, backend: str | Backend, options: LoadOptions
) -> tuple[Backend, Artifact, tuple[str, ...]]:
    """The backend and the artifact for a part, and what was preferred to it and why that may not load.

    Raises BundleError for a precision the part lacks, BackendError where no backend asked for loads its format, and
    the first refusal or MissingDependencyError where none of them may.
    """
    artifacts = bundle.manifest.find(part, precision=precision)
    if not artifacts:
        found = ", ".join(sorted({a.precision for a in bundle.manifest.find(part)}))
        raise BundleError(
            f"{bundle.folder} has no {part} in {precision}, only in {found}; export it with --precision {precision}"
        )
    if isinstance(backend, str) and not runs(backend, part):
        backend = "auto"
    candidates = _candidates(backend, options, {artifact.format for artifact in artifacts})
    fitting = [(engine, a) for engine in candidates for a in artifacts if a.format in engine.formats]
    if not fitting:
        formats = ", ".join(sorted({a.format for a in artifacts}))
        asked = ", ".join(engine.name for engine in candidates) or 'backend="auto"'
        raise BackendError(
            f"{bundle.folder} has its {part} in {precision} only as {formats}, which {asked} cannot load; "
            f"{_way_out(bundle, candidates)}"
        )
    problems: list[Exception] = []
    for engine, artifact in fitting:
        problem = engine.unavailable()
        if problem is None and isinstance(engine, SelectiveBackend):
            problem = engine.refusal(artifact, options)
        if problem is None and backend == "auto" and artifact.engine is not None and not artifact.is_measured:
            problem = EngineMismatchError(
                f"{artifact.file} was never measured, since no machine that built it could run it; measure it here: "
                f'coda verify {bundle.folder} --parity --record, or ask for it by name: backend="{engine.name}"'
            )
        if problem is None:
            return engine, artifact, tuple(map(str, problems))
        problems.append(problem)
    # What is asked for by name is explained by its own problem; for "auto" the last, most general one is the way out.
    raise problems[-1] if backend == "auto" else problems[0]


def _candidates(backend: str | Backend, options: LoadOptions, formats: set[str]) -> list[Backend]:
    if not isinstance(backend, str):
        if hasattr(backend, "formats") and hasattr(backend, "load"):
            return [backend]
        raise BackendError(f'backend is {backend!r}; expected a name, such as "auto", or a Backend')
    if backend != "auto":
        return [get_backend(backend)]
    if options.providers is not None:  # they are onnxruntime's, and say where to run
        return [get_backend("onnxruntime")]
    return [get_backend(name) for name in automatic(formats)]


def _warn_of_idle_gpu(loaded: Sequence[LoadedArtifact]) -> None:
    """Say that a GPU is here and an engine for one was passed over, and that a part runs on the CPU instead."""
    for artifact in loaded:
        if artifact.passed_over and not artifact.device.startswith("cuda") and count_cuda_devices() > 0:
            warnings.warn(
                f"the {artifact.part} runs on {artifact.device}, although there is a GPU: "
                f'{"; ".join(artifact.passed_over)} (device="cpu" says that this is wanted)',
                RuntimeWarning,
                stacklevel=3,
            )
            return


def _way_out(bundle: Bundle, candidates: Sequence[Backend]) -> str:
    engines = [name for engine in candidates for name in engine.formats if name in LIBRARIES]
    if engines:
        return f"build it: coda build {bundle.folder} --engine {engines[0]}"
    if any("ptx" in engine.formats for engine in candidates):
        return "export it with --engine ptx"
    return "export it as onnx"
