"""From a bundle's folder or Hub id to a tokenizer that runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from .backends.base import Backend, KeywordOptions, LoadOptions, Provider, Session, profiles_of
from .errors import CodaError
from .format.bundle import Bundle
from .format.parts import PARTS
from .hub_source import find_bundle
from .machine.devices import count_cuda_devices
from .nvtx_ranges import NvtxRanges, no_ranges
from .select import choose, choose_precision
from .tokenizer import LoadedArtifact, Tokenizer
from .tuned import follow


def load(
    path_or_hub_id: str | os.PathLike[str],
    device: str = "auto",
    backend: str | Backend = "auto",
    precision: str = "auto",
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    *,
    revision: str | None = None,
    **options: Unpack[KeywordOptions],
) -> Tokenizer:
    """Load a bundle.

    Args:
        path_or_hub_id: the bundle's folder, or the Hugging Face Hub id of one, "org/name" or "org/name@revision".
        device: "cpu", "cuda", "cuda:N", or "auto": a GPU if the engine library and the driver have one.
        backend: a backend's name, a `Backend` of your own, or "auto": what `coda tune` found the fastest here, or else
            the first in a fixed order that may load what the bundle has.
        precision: a precision's name, or "auto": the manifest's default on every machine.
        providers: onnxruntime's execution providers, passed through, instead of what `device` stands for.
        threads: CPU threads for one run, from 1; None follows what `coda tune` recorded, or else leaves it to the
            engine library, and where affinity, cpuset or a container's quota gives fewer cores, takes as many as that.
        revision: a branch, tag or commit hash of a Hub id, instead of "@revision"; with one, the Hub is meant even
            where there is a folder of that name. A commit hash pins the bundle, and needs no network once it is cached.
        **options: the other fields of `LoadOptions`: `verify`, `allow_host_code`, `color`, `reproducible`, `nvtx` and
            `ignore_tuning`; it says more of each above too.

    Raises:
        BundleError: the bundle is missing, broken, altered, or made by a newer coda.
        EngineMismatchError: the backend asked for has only engines of another GPU, library, system or ONNX file.
        InputError: an argument is wrong, or the bundle lacks the precision.
        DeviceError, BackendError, MissingDependencyError, HubError: what was asked for is not there.
    """
    given = LoadOptions(device, backend, precision, providers, threads, **options)
    return open_tokenizer(path_or_hub_id, given, revision)


def open_tokenizer(
    path_or_hub_id: str | os.PathLike[str], options: LoadOptions, revision: str | None = None
) -> Tokenizer:
    """Load a bundle as `load` does, with options that are made already; raises what it raises."""
    ranges = NvtxRanges() if options.nvtx else no_ranges
    bundle = Bundle.open(find_bundle(path_or_hub_id, revision))
    own = not isinstance(options.backend, str)  # a backend of the user's own, which may take paths
    try:
        tuned = follow(bundle, options, choose_precision(bundle.manifest, options.precision))
        preferred = {part: setting.backend for part, setting in tuned.items()}
        choices = {part: choose(bundle, part, options, preferred.get(part)) for part in PARTS}
    except CodaError:
        bundle.verify(options.verify, graphs=own)  # a broken bundle is the first thing to know
        raise
    # What is loaded is checked as it is read, and not before that too, which takes as long again.
    read = [] if own else [chosen.artifact for chosen in choices.values()]
    read += [bundle.codebook] if bundle.codebook else []  # by Tokenizer
    bundle.verify(options.verify, graphs=own, apart_from=read)
    sessions: dict[str, Session] = {}
    loaded: list[LoadedArtifact] = []
    try:
        for part, chosen in choices.items():
            artifact, setting = chosen.artifact, tuned.get(part)
            if setting is not None and setting.backend != chosen.backend.name:
                setting = None
            threads = setting.threads if setting is not None and options.threads is None else options.threads
            try:
                session = sessions[part] = chosen.backend.load(bundle, artifact, replace(options, threads=threads))
            except CodaError as error:
                if chosen.passed_over:
                    error.args = (f"{error} (skipped before: {'; '.join(chosen.passed_over)})",)
                raise
            about = (artifact.format, artifact.precision, chosen.backend.name, session.device, artifact.file)
            followed = setting is not None
            loaded.append(LoadedArtifact(part, *about, chosen.passed_over, profiles_of(session), followed))
        if options.device != "cpu":
            _warn_of_idle_gpu(loaded)
        return Tokenizer(bundle, sessions, loaded, options.color, ranges)
    except BaseException:
        for session in sessions.values():
            session.close()
        raise


def _warn_of_idle_gpu(loaded: Sequence[LoadedArtifact]) -> None:
    """Say that a GPU is here and an engine for one was skipped, and that a part runs on the CPU instead."""
    for artifact in loaded:
        if artifact.passed_over and not artifact.device.startswith("cuda") and count_cuda_devices() > 0:
            warnings.warn(
                f"the {artifact.part} runs on {artifact.device}, although there is a GPU: "
                f'{"; ".join(artifact.passed_over)} (pass device="cpu" if this is intended)',
                RuntimeWarning,
                stacklevel=4,  # who called load
            )
            return
