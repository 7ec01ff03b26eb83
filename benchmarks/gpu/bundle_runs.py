"""The bundle on each backend: sessions of one part, and the whole through the public API."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

import coda_runtime
from benchmarks.gpu.case import Case
from benchmarks.gpu.kernels import file_name
from benchmarks.gpu.plan import Contender
from coda_runtime.backends.base import LoadOptions, Session, keeps_on_device
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.backends.onnxruntime.providers import CPU, CUDA, TENSORRT
from coda_runtime.backends.onnxruntime.session import OrtSession
from coda_runtime.backends.registry import get_backend
from coda_runtime.errors import BackendError, CodaError, MissingDependencyError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from coda_runtime.select import Chosen, candidates, choose

TENSORRT_PROVIDER = "tensorrt-provider"
"""The family."""
_BACKENDS = {"onnx": "onnxruntime", "ptx": "cuda", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


@dataclasses.dataclass(frozen=True)
class Run:
    """``run`` takes any batch; above ``max_batch`` it is cut into pieces. ``about`` says what was loaded.

    ``nodes`` tells, after a run, how many nodes of the graphs each provider ran, where several share them.
    """

    run: Callable[[Any], Any]
    max_batch: int | None = None
    about: str = ""
    nodes: Callable[[], Mapping[str, int]] = dict


def bundle_folder(case: Case, family: str) -> Path:
    """The bundle that has this family's files."""
    made = case.folder / f"bundle-{family}"
    return made if made.is_dir() else case.folder / "bundle"


@contextmanager
def bundle_run(case: Case, contender: Contender, operation: str, clock: str) -> Iterator[Run]:
    """One operation of a backend; of a part by its session, of the whole by `coda_runtime.load`."""
    device = case.device.type
    if operation in ("encode", "decode"):
        folder, backend = bundle_folder(case, contender.family), contender.family
        chosen: Any = backend
        nodes: Callable[[], Mapping[str, int]] = dict
        if contender.family == "best":
            folder, chosen = fastest(case, contender.precision)
        elif contender.family == TENSORRT_PROVIDER:
            chosen = TensorrtProvider(case.folder.parent)
            nodes = chosen.placed
        with coda_runtime.load(folder, device=device, backend=chosen, precision=contender.precision) as tokenizer:
            about = ", ".join(f"{a.part}: {a.backend} {a.file} on {a.device}" for a in tokenizer.artifacts)
            call = getattr(tokenizer, operation)
            if clock == "host":
                yield Run(call, None, about, nodes)
            else:
                per_run = tokenizer.images_per_run
                yield Run(_through_dlpack(call, per_run), per_run, about, nodes)
        return
    session, about, nodes = _session(case, contender, operation)
    try:
        max_batch = None if session.batch is None else session.batch[2]
        yield Run(_in_chunks(_on_device(session), max_batch), max_batch, about, nodes)
    finally:
        session.close()


def _session(case: Case, contender: Contender, part: str) -> tuple[Session, str, Callable[[], Mapping[str, int]]]:
    bundle = Bundle.open(bundle_folder(case, contender.family))
    provider = TensorrtProvider(case.folder.parent) if contender.family == TENSORRT_PROVIDER else None
    options = LoadOptions(case.device.type, provider or contender.family, contender.precision)
    if contender.family == "cuda":
        name = file_name(contender.name.removeprefix("cuda-"))
        artifact = next((a for a in bundle.manifest.artifacts if a.file == name), None)
        if artifact is None:
            raise BackendError(f"the bundle has no {name}")
        chosen = Chosen(get_backend("cuda"), artifact)
    else:
        chosen = choose(bundle, part, options)
    session = chosen.backend.load(bundle, chosen.artifact, options)
    about = f"{part}: {chosen.backend.name} {chosen.artifact.file} on {session.device}"
    return session, about, provider.placed if provider is not None else dict


def _on_device(session: Session) -> Callable[[Any], Any]:
    if keeps_on_device(session):
        # PyTorch's stream waits for the result, so that an event after it stands for it.
        return lambda given: from_dlpack(session.run_on_device(session.take(given)))
    return lambda given: torch.from_numpy(session.run(given.cpu().numpy()))


def _through_dlpack(call: Callable[[Any], Any], max_batch: int) -> Callable[[Any], Any]:
    def one(given: Any) -> Any:
        out = call(given if given.is_cuda else given.numpy())
        return torch.from_numpy(out) if isinstance(out, np.ndarray) else from_dlpack(out)

    return _in_chunks(one, max_batch)


def _in_chunks(one: Callable[[Any], Any], max_batch: int | None) -> Callable[[Any], Any]:
    def run(given: Any) -> Any:
        if max_batch is None or len(given) <= max_batch:
            return one(given)
        return torch.cat([one(chunk) for chunk in given.split(max_batch)])

    return run


class TensorrtProvider(OnnxRuntimeBackend):
    """onnxruntime's TensorRT provider, then CUDA's and the CPU's for what it leaves; `placed` counts the nodes of each.

    It builds an engine in the first run of each batch that is larger than those before; what it timed for one is kept
    in ``work`` for the next.
    """

    name = "onnxruntime by TensorRT"

    def __init__(self, work: Path) -> None:
        self._work = work
        self._nodes: Counter[str] = Counter()

    def placed(self) -> Mapping[str, int]:
        """Nodes by provider, of all that was loaded."""
        return dict(self._nodes)

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> OrtSession:
        """Load, and count. Raises BackendError where onnxruntime does not say what runs where: CUDA may run it all."""
        cache = self._work / "tensorrt-provider"
        cache.mkdir(exist_ok=True)
        # A graph in a low precision needs its kernels switched on; "auto": the provider says which device it is.
        set_here = {
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
            **{f"trt_{name}_enable": artifact.precision == name for name in ("fp16", "bf16")},
        }
        providers = ((TENSORRT, set_here), CUDA, CPU)
        session = super().load(bundle, artifact, dataclasses.replace(options, device="auto", providers=providers))
        nodes = session.nodes()
        if not nodes:
            session.close()
            raise BackendError(
                "this onnxruntime does not tell which nodes TensorRT runs, so that CUDA may run them all"
            )
        self._nodes.update(nodes)
        return session


class Mixed:
    """A backend that takes each part in one format, whichever library that is."""

    name = "mixed"
    formats: tuple[str, ...] = tuple(_BACKENDS)
    precisions: tuple[str, ...] | None = None

    def __init__(self, formats: dict[str, str], quantizer: str) -> None:
        self._formats, self._quantizer = formats, quantizer

    def missing(self) -> MissingDependencyError | None:
        """Return None: each library is asked when it is used."""
        return None

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Refuse what is not the format, or not the quantizer, that was chosen."""
        wanted = self._formats[artifact.part]
        if artifact.format != wanted or (artifact.part == "quantizer" and artifact.file != self._quantizer):
            return BackendError(f"{artifact.file} is not the one that was chosen")
        return get_backend(_BACKENDS[artifact.format]).check(bundle, artifact, options)

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        """Load by the library of the format."""
        return get_backend(_BACKENDS[artifact.format]).load(bundle, artifact, options)


def fastest(case: Case, precision: str) -> tuple[Path, Mixed]:
    """Encoder and decoder by the first of TensorRT, TensorRT-RTX and onnxruntime that loads, and the fused kernel."""
    _check_kernel(case)
    reasons = []
    for name in ("tensorrt", "tensorrt-rtx", "onnx"):
        folder = bundle_folder(case, name)
        bundle, options = Bundle.open(folder), LoadOptions(case.device.type, _BACKENDS[name])
        encoders = bundle.manifest.find("encoder", format=name, precision=precision)
        for candidate in candidates(bundle, encoders, options):
            problem = candidate.reason
            if problem is None:
                try:
                    candidate.backend.load(bundle, candidate.artifact, options).close()
                except CodaError as error:
                    problem = error
            if problem is None:
                return folder, Mixed({"encoder": name, "quantizer": "ptx", "decoder": name}, file_name("sm80"))
            reasons.append(str(problem))
    raise BackendError("; ".join(reasons) or f"the bundle has no encoder in {precision}")


def _check_kernel(case: Case) -> None:
    """Raise why the fused kernel may not load here: `load` would name the first quantizer that was not chosen."""
    bundle = Bundle.open(case.folder / "bundle")
    kernels = [a for a in bundle.manifest.find("quantizer", format="ptx") if a.file == file_name("sm80")]
    for candidate in candidates(bundle, kernels, LoadOptions(case.device.type, "cuda")):
        if candidate.reason is not None:
            raise candidate.reason
