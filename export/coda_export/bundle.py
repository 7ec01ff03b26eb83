"""Write a bundle: three graphs and the value table, measured, checked and sealed, or nothing at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import coda_runtime
from coda_export.folding import Folded
from coda_export.folding.precision import DTYPES
from coda_export.graphs import QUANTIZER_OPSET, decoder_graph, encoder_graph, quantizer_graph
from coda_export.parity import DEFAULT_FLOORS, Floor, ParityImages, ParityMeter, Reference, check_floor
from coda_runtime.bundle import Bundle, describe_file, seal
from coda_runtime.errors import BundleError, InputError, OutputError
from coda_runtime.manifest import CHECKSUMS_NAME, MANIFEST_NAME, Artifact, Manifest
from coda_runtime.outputs import staged_folder

# Of 20, 21 and 23, onnxruntime's CPU provider ran opset 20 fastest: benchmarks/bench_opset.py measures it.
DEFAULT_OPSET = 20
# Before it, ONNX has no bfloat16 convolution, and the graph would be invalid.
BF16_OPSET = 22

Progress = Callable[[str], None]


def check_out(out: Path) -> None:
    """Raise ``OutputError`` when ``out`` is something that a bundle must not replace."""
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


def check_precisions(precisions: Sequence[str]) -> None:
    """Raise ``InputError`` for an empty list, an unknown precision, or one named twice."""
    for precision in precisions:
        if precision not in DTYPES:
            raise InputError(f"precision {precision!r} is unknown, expected some of {', '.join(DTYPES)}")
    if not precisions or len(set(precisions)) != len(precisions):
        raise InputError(f"name each precision once and at least one, found {','.join(precisions) or 'none'}")


def graph_opset(precision: str, opset: int) -> int:
    """The opset of a precision's encoder and decoder, where ``opset`` is asked for."""
    return max(opset, BF16_OPSET) if precision == "bf16" else opset


def _graphs(
    folded: Folded, precisions: Sequence[str], opset: int, progress: Progress
) -> Iterator[tuple[str, str, onnx.ModelProto]]:
    for precision in precisions:
        progress(f"exporting the {precision} encoder")
        yield "encoder", precision, encoder_graph(folded, precision, graph_opset(precision, opset))
    progress("building the quantizer")
    yield "quantizer", "fp32", quantizer_graph(folded.quantizer)
    for precision in precisions:
        progress(f"exporting the {precision} decoder")
        yield "decoder", precision, decoder_graph(folded, precision, graph_opset(precision, opset))


def _write(folder: Path, folded: Folded, precisions: Sequence[str], opset: int, progress: Progress) -> list[Artifact]:
    artifacts = []
    for part, precision, model in _graphs(folded, precisions, opset, progress):
        file = f"{part}.{precision}.onnx"
        onnx.save(model, folder / file)
        artifacts.append(Artifact(part, "onnx", precision, file, *describe_file(folder, file)))
    file = "codebook.fp32.npy"
    np.save(folder / file, folded.quantizer.search.values.numpy())
    artifacts.append(Artifact("codebook", "npy", "fp32", file, *describe_file(folder, file)))
    return artifacts


def export_bundle(
    folded: Folded,
    reference: Reference,
    out: str | os.PathLike[str],
    images: ParityImages,
    *,
    precisions: Sequence[str] = ("fp32",),
    floors: Mapping[str, Floor] = DEFAULT_FLOORS,
    opset: int = DEFAULT_OPSET,
    provenance: Mapping[str, Any] | None = None,
    license: str | None = None,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Export ``folded`` to a bundle folder at ``out`` and return its manifest.

    The first of ``precisions`` ("fp32", "fp16", "bf16") becomes the default; the quantizer is always float32. Every
    graph is run on ``images`` by onnxruntime's CPU provider and compared with ``reference``; an existing bundle at
    ``out`` is replaced only when all is done.

    Raises ``ParityError`` when a part falls under its precision's floor, ``InputError`` for unknown precisions,
    ``OutputError`` when ``out`` is something else than a bundle, ``MissingDependencyError`` without onnxruntime.
    """
    check_precisions(precisions)
    check_out(Path(out))
    with staged_folder(out, replace=True) as folder:
        artifacts = _write(folder, folded, precisions, opset, progress)
        versions = {"torch": torch.__version__, "onnx": onnx.__version__, "coda_export": coda_runtime.__version__}
        opsets = {precision: graph_opset(precision, opset) for precision in precisions}
        manifest = Manifest(
            spec=folded.spec,
            provenance={
                **(provenance or {}),
                "versions": versions,
                "opset": {**opsets, "quantizer": QUANTIZER_OPSET},
                "floors": {name: dataclasses.asdict(floors[name]) for name in dict.fromkeys(("fp32", *precisions))},
            },
            default_precision=precisions[0],
            artifacts=tuple(artifacts),
            license=license,
        )
        measured = tuple(_measured(folder, manifest, reference, images, floors, progress))
        return seal(folder, dataclasses.replace(manifest, artifacts=measured))


def _measured(
    folder: Path,
    manifest: Manifest,
    reference: Reference,
    images: ParityImages,
    floors: Mapping[str, Floor],
    progress: Progress,
) -> Iterator[Artifact]:
    meter = ParityMeter(Bundle(folder, manifest, b""), reference, images)
    for artifact in manifest.artifacts:
        if artifact.format != "onnx":
            yield artifact
            continue
        progress(f"comparing the {artifact.precision} {artifact.part} with the tokenizer")
        parity = meter.measure(artifact)
        for numbers in parity.values():
            check_floor(artifact.part, artifact.precision, numbers, floors[artifact.precision])
        yield dataclasses.replace(artifact, parity=parity)
