"""What a shape is measured with, made once in the work folder: tokenizer, reference, least work, bundle, engines."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.kernels import add_kernels, carry, file_name
from benchmarks.gpu.shapes import folder, images, make_tokenizer
from benchmarks.gpu.stage import in_child
from coda_deploy import CodaTokenizer
from coda_deploy.export import export_tokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_export import DEFAULT_THRESHOLDS, Threshold
from coda_runtime.backends.tensorrt.library import find_library
from coda_runtime.build.builder import build_engine
from coda_runtime.build.bundle import EngineRequest, add_engines, copy_bundle, with_engines
from coda_runtime.build.options import BuildOptions
from coda_runtime.errors import BuildError
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.engine_key import EngineKey
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parts import DECODER, ENCODER, has_precisions
from coda_runtime.format.precision import PRECISIONS
from coda_runtime.io.atomic_files import staged_folder
from coda_runtime.machine.devices import find_gpu
from coda_runtime.parity import ParitySamples

ENGINES = ("rtx-ampere", "tensorrt-rtx", "tensorrt")
"""Families with engines of their own: TensorRT-RTX for sm80 and for the GPU at hand, TensorRT."""
# Random weights promise no parity: every row says what it is, and the sample keeps the real thresholds.
_NO_THRESHOLDS = {precision: Threshold(0.0, 0.0) for precision in PRECISIONS}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What preparing depends on. ``batch`` is the engines' profile."""

    work: Path
    precisions: tuple[str, ...]
    batch: tuple[int, int, int]
    kernels: Path | None


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
        carry([shape], carried)
    add_kernels(folder(settings.work, shape) / "bundle", shape, carried)


def make_engines(shape: str, library: str, settings: Settings) -> None:
    """A bundle with TensorRT's engines, as `coda build` makes it. Parity is left to the rows."""
    target = folder(settings.work, shape)
    options = BuildOptions(batch=settings.batch)
    out = target / f"bundle-{library}"
    if library == "rtx-ampere":
        options = dataclasses.replace(options, targets=("sm80",))
        return build_for_this_gpu(target / "bundle", out, options, ())
    if library == "tensorrt-rtx":
        return build_for_this_gpu(target / "bundle", out, options, settings.precisions)
    request = EngineRequest(library, options, settings.precisions)
    add_engines(target / "bundle", request, out=out, measure=lambda _, artifact: artifact)
    return None


def build_for_this_gpu(bundle: Path, out: Path, options: BuildOptions, precisions: tuple[str, ...]) -> None:
    """TensorRT-RTX engines that say they are for the GPU at hand, whichever it is: its list of targets has no sm90.

    Without targets its builder takes ComputeCapability.CURRENT, which needs the GPU; `coda build` names targets always.
    ``precisions`` are the encoder's and the decoder's; without any, the quantizer alone is built.
    """
    library, gpu, source = find_library("tensorrt-rtx"), find_gpu(), Bundle.open(bundle)
    if gpu is None:
        raise BuildError("building for the GPU at hand needs one, and the driver shows none here")
    with staged_folder(out, replace=True) as target:
        copy_bundle(source, target)
        (target / "engines").mkdir(exist_ok=True)
        made = []
        for onnx in (artifact for artifact in source.manifest.artifacts if artifact.format == "onnx"):
            if onnx.precision not in precisions and has_precisions(onnx.part):
                continue
            begun = time.perf_counter()
            built = build_engine(library, target / onnx.file, options, precision=onnx.precision)
            seconds = time.perf_counter() - begun
            aim = "-".join(options.targets) or "current"
            print(f"  {onnx.file} for {aim} on {gpu.capability}: {len(built.data)} bytes in {seconds:.1f} s")
            file = f"engines/{onnx.part}.{onnx.precision}.{library.name}-{aim}.engine"
            (target / file).write_bytes(built.data)
            key = EngineKey.made_here(
                library=library.name,
                library_version=library.version,
                targets=(gpu.capability,),
                onnx=onnx,
                flags=options.flags(),
                gpu=gpu.name,
                driver=gpu.driver,
            )
            digest, size = describe_file(target, file)
            made.append(
                Artifact(
                    onnx.part, library.name, onnx.precision, file, digest, size, options.batch, engine=key.to_json()
                )
            )
        seal(target, with_engines(source.manifest, made))


def needs(family: str) -> tuple[str, ...]:
    """The steps without which a family has nothing to run."""
    if family in ("torch", "quantizers", "compile"):
        return ("reference",)
    if family == "onnxruntime":
        return ("reference", "bundle")
    return ("reference", "bundle", family if family in ENGINES else "kernels")


def steps(shapes: list[str], settings: Settings) -> Iterator[tuple[str, Path, Callable[[], None]]]:
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
    shapes: list[str], families: Sequence[str], settings: Settings, seconds_left: Callable[[], float]
) -> dict[str, str]:
    """Make what ``families`` need and is not there yet. {step: why it could not be made}."""
    problems, wanted = {}, {step for family in families for step in needs(family)}
    for name, made, step in steps(shapes, settings):
        if made.exists() or name.rpartition("/")[2] not in wanted:
            continue
        begun = time.monotonic()
        why = in_child(step, seconds_left()) if seconds_left() > 0 else "the budget of this call was used up"
        print(f"{name}: {why or 'made'} ({time.monotonic() - begun:.0f} s)", flush=True)
        if why is not None:
            problems[name] = why
    return problems
