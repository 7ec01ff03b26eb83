"""What a shape is measured with, made once in the work folder: tokenizer, reference, least work, bundle, engines."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.kernels import add_kernels, carry, file_name
from benchmarks.gpu.shapes import folder, images, make_tokenizer
from benchmarks.gpu.stage import OVER, in_child
from coda_deploy import CodaTokenizer
from coda_deploy.export import export_tokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_export import DEFAULT_THRESHOLDS, Threshold
from coda_runtime.build.bundle import EngineRequest, add_engines
from coda_runtime.build.options import BuildOptions
from coda_runtime.errors import BuildError
from coda_runtime.format.parts import DECODER, ENCODER
from coda_runtime.format.precision import PRECISIONS
from coda_runtime.machine.devices import find_gpu
from coda_runtime.parity import ParitySamples

ENGINES = ("tensorrt-rtx", "tensorrt")
"""Families with engines of their own."""
# Random weights promise no parity: every row says what it is, and the sample keeps the real thresholds.
_NO_THRESHOLDS = {precision: Threshold(0.0, 0.0) for precision in PRECISIONS}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What preparing depends on. ``batch`` is the engines' profile, ``triton`` a folder with the one for kernels."""

    work: Path
    precisions: tuple[str, ...]
    batch: tuple[int, int, int]
    kernels: Path | None
    triton: Path | None = None


def make_reference(shape: str, work: Path) -> None:
    """The tokenizer's folder, what it makes of the photographs on the CPU in float32, and its operations an image."""
    target, tokenizer = folder(work, shape), make_tokenizer(shape)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(target / "tokenizer")
    ParitySamples.take(TorchReference(tokenizer), images(tokenizer.spec.image_size)).save(target / "reference.npz")
    (target / "work.json").write_text(json.dumps(minimal_work(tokenizer)), encoding="utf-8")


def minimal_work(tokenizer: CodaTokenizer) -> dict[str, dict[str, float]]:
    """Operations (a multiplication and an addition are two) and parameters of the folded encoder and decoder."""
    folded, spec = fold_tokenizer(tokenizer), tokenizer.spec
    inputs = {
        part.name: torch.zeros(part.input.shape(spec, 1), dtype=getattr(torch, part.input.dtype.name), device="meta")
        for part in (ENCODER, DECODER)
    }
    out = {}
    for part, given in inputs.items():
        module = copy.deepcopy(getattr(folded, part)).to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(given)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        out[part] = {"flops": float(counter.get_total_flops()), "parameters": float(parameters)}
    return out


def make_bundle(shape: str, settings: Settings) -> None:
    """Export, as `coda export` does."""
    target = folder(settings.work, shape)
    thresholds = DEFAULT_THRESHOLDS if shape == "sample" else _NO_THRESHOLDS
    export_tokenizer(
        target / "tokenizer",
        target / "bundle",
        precisions=settings.precisions,
        thresholds=thresholds,
        replace=True,
    )


def make_kernels(shape: str, settings: Settings) -> None:
    """Add the carried PTX to the bundle, or compile it here."""
    carried = settings.kernels
    if carried is None or not (carried / f"{shape}.sm80.ptx").exists():
        carried = settings.work / "kernels"
        if settings.triton is not None:  # this process has imported none
            sys.path.insert(0, str(settings.triton))
        carry([shape], carried)
    add_kernels(folder(settings.work, shape) / "bundle", shape, carried)


def make_engines(shape: str, library: str, settings: Settings) -> None:
    """Make a bundle with a library's engines for the GPU at hand, as `coda build` does. Parity is left to the rows."""
    target, options = folder(settings.work, shape), BuildOptions(batch=settings.batch)
    if library == "tensorrt-rtx":  # whose builder asks for the targets' names, and refuses those that it cannot run on
        gpu = find_gpu()
        if gpu is None:
            raise BuildError("building for the GPU at hand needs one, and the driver shows none here")
        options = dataclasses.replace(options, targets=(gpu.capability,))
    request = EngineRequest(library, options, settings.precisions)
    add_engines(target / "bundle", request, out=target / f"bundle-{library}", measure=lambda _, artifact: artifact)


def needs(family: str) -> tuple[str, ...]:
    """The steps without which a family has nothing to run."""
    if family in ("torch", "quantizers", "compile"):
        return ("reference",)
    if family == "torch-tensorrt":
        return ("reference",)
    if family in ("onnxruntime", "tensorrt-provider"):
        return ("reference", "bundle")
    return ("reference", "bundle", family if family in ENGINES else "kernels")


def steps(shapes: Sequence[str], settings: Settings) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """(name, what is there when it is done, what does it)."""
    for shape in shapes:
        target = folder(settings.work, shape)
        yield f"{shape}/reference", target / "work.json", partial(make_reference, shape, settings.work)
        yield f"{shape}/bundle", target / "bundle" / "manifest.json", partial(make_bundle, shape, settings)
        yield f"{shape}/kernels", target / "bundle" / file_name("sm80"), partial(make_kernels, shape, settings)
    for library in ENGINES:
        for shape in shapes:
            made = folder(settings.work, shape) / f"bundle-{library}"
            yield f"{shape}/{library}", made / "manifest.json", partial(make_engines, shape, library, settings)


def prepare(
    shapes: Sequence[str],
    families: Sequence[str],
    settings: Settings,
    seconds_left: Callable[[], float],
    problems: dict[str, str],
) -> None:
    """Make what ``families`` need and is not there yet; ``problems`` gets {step: why it could not be made}.

    What failed before is not tried again. No step may take more than half of what is left, so that one which hangs
    leaves some of it.
    """
    wanted = {step for family in families for step in needs(family)}
    for name, made, step in steps(shapes, settings):
        if made.exists() or name in problems or name.rpartition("/")[2] not in wanted:
            continue
        begun = time.monotonic()
        why = in_child(step, seconds_left() / 2) if seconds_left() > 0 else OVER
        print(f"  {name}: {why or 'made'} ({time.monotonic() - begun:.0f} s)", flush=True)
        if why is not None:
            problems[name] = why
