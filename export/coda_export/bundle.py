"""Write a bundle: three graphs, their tables and a recorded reference, measured and sealed, or nothing at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

import coda_runtime
from coda_export.flops import graph_flops, search_flops
from coda_export.folding import Folded
from coda_export.folding.precision import DTYPES
from coda_export.graphs import (
    QUANTIZER_OPSET,
    decoder_graph,
    encode_graph,
    encoder_graph,
    graph_opset,
    quantizer_graph,
)
from coda_export.int8 import Calibration, Scales, calibrated, quantized_graph, scales_for
from coda_export.kernels import import_triton, write_kernels, write_search
from coda_export.layers import LayersOf, naming_the_layer
from coda_runtime.build.bundle import EngineRequest, build_into, check_request
from coda_runtime.build.measuring import with_parity
from coda_runtime.errors import BundleError, InputError, OutputError
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.manifest import CHECKSUMS_NAME, MANIFEST_NAME, Artifact, Manifest
from coda_runtime.format.parity import parity_json
from coda_runtime.format.parts import DECODER, ENCODE, ENCODER, PARTS, QUANTIZER
from coda_runtime.format.precision import DEFAULT_THRESHOLDS, FP32, Threshold, precision_of
from coda_runtime.io.atomic_files import staged_folder
from coda_runtime.parity import ParityImages, ParityMeter, ParitySamples, Reference, check_threshold
from coda_runtime.parity.samples import PARITY_FILE

# Of 20, 21 and 23, onnxruntime's CPU provider ran opset 20 fastest: benchmarks/bench_opset.py measures it.
DEFAULT_OPSET = 20

Progress = Callable[[str], None]
GraphOf = Callable[[Folded, str, int], onnx.ModelProto]


def check_out(out: Path, *, replace: bool = False) -> None:
    """Raise ``OutputError`` when ``out`` is something that a bundle must not replace: a bundle too, but on request."""
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out} exists and is not a bundle: choose another --out, or remove it first")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    if not found:
        return
    try:
        manifest = Bundle.open(out).manifest
    except BundleError as error:
        raise OutputError(f"{out} exists and is not a bundle: choose another --out, or remove it first") from error
    foreign = found - {MANIFEST_NAME, CHECKSUMS_NAME, *(artifact.file for artifact in manifest.artifacts)}
    if foreign:
        raise OutputError(
            f"{out} holds {min(foreign)!r} beside a bundle, which would be lost: move it, or choose another --out"
        )
    if not replace:
        raise OutputError(
            f"{out} is a bundle already ({_content(manifest)}): give --into to add a precision to it, --force to "
            "replace it, or another --out"
        )


def _content(manifest: Manifest) -> str:
    engines = sum(artifact.engine is not None for artifact in manifest.artifacts)
    return ", ".join([*manifest.precisions, *([f"{engines} engine{'s' * (engines > 1)}"] if engines else [])])


def check_precisions(precisions: Sequence[str]) -> None:
    """Raise ``InputError`` for an empty list, an unknown precision, or one named twice."""
    for precision in precisions:
        if precision not in DTYPES:
            raise InputError(f"precision {precision!r} is unknown, expected some of {', '.join(DTYPES)}")
    if not precisions or len(set(precisions)) != len(precisions):
        raise InputError(f"name each precision once and at least one, found {','.join(precisions) or 'none'}")


def _graphs(
    folded: Folded, precisions: Sequence[str], opset: int, progress: Progress, *, quantizer: bool
) -> Iterator[tuple[str, str, onnx.ModelProto]]:
    """Yield each part and precision with its graph; of an integer precision the float32 one that it is made of."""
    yield from _traced(ENCODER.name, encoder_graph, folded, precisions, opset, progress)
    if quantizer:
        progress("building the quantizer")
        yield QUANTIZER.name, FP32, quantizer_graph(folded.quantizer)
    yield from _traced(DECODER.name, decoder_graph, folded, precisions, opset, progress)


def _traced(
    part: str, graph: GraphOf, folded: Folded, precisions: Sequence[str], opset: int, progress: Progress
) -> Iterator[tuple[str, str, onnx.ModelProto]]:
    """Yield the part's graph for each precision. Tracing takes most of an export: fp32 and int8 share one trace."""
    made: dict[tuple[str, int], onnx.ModelProto] = {}
    for precision in precisions:
        computed = FP32 if precision_of(precision).is_integer else precision
        key = computed, graph_opset(precision, opset)
        if key not in made:
            progress(f"exporting the {precision} {part}")
            made[key] = graph(folded, *key)
        yield part, precision, made[key]


def graph_file(part: str, precision: str) -> str:
    """Name the file of an ONNX graph in a bundle."""
    return f"{part}.{precision}.onnx"


def write_graphs(
    folder: Path,
    folded: Folded,
    precisions: Sequence[str],
    opset: int,
    progress: Progress,
    *,
    quantizer: bool = False,
    scales: Scales | None = None,
) -> tuple[list[Artifact], dict[str, int]]:
    """Write each precision's graphs and the quantizer's; return the artifacts, and each part's work for an image.

    ``scales`` are needed for precisions of integers. Raises ``InputError`` where a layer gets none of them.
    """
    artifacts, flops = [], {QUANTIZER.name: search_flops(folded.quantizer.search, folded.spec)}
    for part, precision, model in _graphs(folded, precisions, opset, progress, quantizer=quantizer):
        file = graph_file(part, precision)
        if part not in flops:
            flops[part] = graph_flops(model)
        if scales is not None and precision_of(precision).is_integer:
            progress(f"taking the scales of the {precision} {part}")
            model = quantized_graph(model, scales.inputs(PARTS[part]))
        onnx.save(model, folder / file)
        artifacts.append(Artifact(part, "onnx", precision, file, *describe_file(folder, file)))
    return artifacts, flops


def write_encode_graphs(
    folder: Path, precisions: Sequence[str], progress: Progress, *, quantizer: str = graph_file(QUANTIZER.name, FP32)
) -> list[Artifact]:
    """Join each precision's encoder in ``folder`` with the quantizer there, and write both as one graph."""
    artifacts, search = [], onnx.load(folder / quantizer)
    for precision in precisions:
        progress(f"joining the {precision} encoder and the quantizer")
        file = graph_file(ENCODE.name, precision)
        onnx.save(encode_graph(onnx.load(folder / graph_file(ENCODER.name, precision)), search), folder / file)
        artifacts.append(Artifact(ENCODE.name, "onnx", precision, file, *describe_file(folder, file)))
    return artifacts


def _write_tables(folder: Path, folded: Folded) -> list[Artifact]:
    np.save(folder / "codebook.fp32.npy", folded.quantizer.search.values.numpy())
    return [_array(folder, "codebook.fp32.npy"), write_search(folder, folded.quantizer.search)]


def _array(folder: Path, file: str) -> Artifact:
    part, precision, suffix = file.split(".")
    return Artifact(part, suffix, precision, file, *describe_file(folder, file))


def export_bundle(
    folded: Folded,
    reference: Reference,
    out: str | os.PathLike[str],
    images: ParityImages,
    *,
    samples: NDArray[np.uint8] | None = None,
    calibration: Calibration | None = None,
    precisions: Sequence[str] = (FP32,),
    engines: Sequence[EngineRequest] = (),
    kernels: bool = False,
    single_graph: bool = False,
    thresholds: Mapping[str, Threshold] = DEFAULT_THRESHOLDS,
    opset: int = DEFAULT_OPSET,
    provenance: Mapping[str, Any] | None = None,
    license: str | None = None,
    layers: LayersOf | None = None,
    replace: bool = False,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Export ``folded`` to a bundle folder at ``out`` and return its manifest.

    The first of ``precisions``, of `coda_runtime.format.precision.PRECISIONS`, becomes the default; the quantizer is
    always float32. Every graph is run on ``images`` by onnxruntime on the CPU and compared with ``reference``; an
    existing bundle at ``out`` is refused, or with ``replace`` replaced when all is done: all of it, its engines too.

    ``samples``, uint8 [N, H, W, 3] of the tokenizer's image size, go into the bundle with what ``reference`` makes of
    them, so that parity can be measured anywhere. They are published with it: they are never ``images`` unless the
    caller says so. Without them the bundle has no recorded reference of its own.

    ``calibration`` are the images that int8's scales are taken from; none may be among ``images`` or ``samples``.

    ``layers`` makes the tokenizer's own layers: with it an error about a part that falls short names the layer.

    ``engines`` are built of the graphs, and measured where they can run here. ``kernels`` adds the quantizer's GPU
    kernels as PTX, which the backend "cuda" runs. ``single_graph`` adds, for each precision, encoder and
    quantizer in one graph, for programs that run it without `coda_runtime`.

    Raises ``ParityError`` when a part falls below its precision's threshold, ``InputError`` for unknown precisions and
    for images that int8 cannot be calibrated on, ``BuildError`` when an engine or a kernel cannot be built,
    ``OutputError`` when ``out`` is something else than a bundle, ``MissingDependencyError`` without onnxruntime.
    """
    check_precisions(precisions)
    for request in engines:
        check_request(request)
    if kernels:
        import_triton()
    check_out(Path(out), replace=replace)
    scales = scales_for(precisions, calibration, reference, images.pixels, samples)
    with staged_folder(out, replace=True) as folder:
        artifacts, flops = write_graphs(folder, folded, precisions, opset, progress, quantizer=True, scales=scales)
        if single_graph:
            artifacts += write_encode_graphs(folder, precisions, progress)
        artifacts += _write_tables(folder, folded)
        taken = None
        if samples is not None:
            progress("running the tokenizer on the bundle's samples")
            taken = ParitySamples.take(reference, samples)
            taken.save(folder / PARITY_FILE)
            artifacts.append(_array(folder, PARITY_FILE))
        opsets = {precision: graph_opset(precision, opset) for precision in precisions}
        manifest = Manifest(
            spec=folded.spec,
            provenance={
                **(provenance or {}),
                "versions": versions(),
                "opset": {**opsets, QUANTIZER.name: QUANTIZER_OPSET},
                "flops": flops,
                "floors": {name: thresholds[name].to_json() for name in dict.fromkeys((FP32, *precisions))},
                **calibrated(precisions, scales),
            },
            default_precision=precisions[0],
            artifacts=tuple(artifacts),
            license=license,
        )
        known = taken if samples is images.pixels else None
        meter = ParityMeter(Bundle(folder, manifest, b""), reference, images, samples=known)
        measured = [*measured_artifacts(meter, manifest.artifacts, thresholds, progress, layers)]
        if kernels:
            progress("compiling the quantizer's GPU kernels")
            artifact = write_kernels(folder, folded.quantizer.search, folded.spec)
            opened = Bundle(folder, dataclasses.replace(manifest, artifacts=(*measured, artifact)), b"")
            measured.append(with_parity(opened, artifact))
        manifest = dataclasses.replace(manifest, artifacts=tuple(measured))
        for request in engines:
            manifest = build_into(folder, manifest, request, progress=progress)
        sealed = seal(folder, manifest)
        check_out(Path(out), replace=replace)  # minutes have gone by, in which somebody may have put something there
        return sealed


def versions() -> dict[str, str]:
    """Return the versions of what makes graphs, as the manifest records them."""
    return {"torch": torch.__version__, "onnx": onnx.__version__, "coda_export": coda_runtime.__version__}


def measured_artifacts(
    meter: ParityMeter,
    artifacts: Iterable[Artifact],
    thresholds: Mapping[str, Threshold],
    progress: Progress,
    layers: LayersOf | None = None,
) -> Iterator[Artifact]:
    """Yield the artifacts with the parity of graphs and search table.

    Raises ``ParityError`` under a threshold; with ``layers`` it names the layer.
    """
    for artifact in artifacts:
        if artifact.format != "onnx" and artifact.part != "search":
            yield artifact
            continue
        progress(f"comparing the {artifact.precision} {artifact.part} with the tokenizer")
        parity = meter.measure_search() if artifact.part == "search" else meter.measure(artifact)
        with naming_the_layer(meter, artifact, layers):
            for record in parity.values():
                check_threshold(artifact.part, artifact.precision, record, thresholds[artifact.precision])
        yield dataclasses.replace(artifact, parity=parity_json(parity))
