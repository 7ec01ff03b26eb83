"""Add precisions to a bundle that is there: all of them, or the bundle stays as it was."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from coda_export.bundle import (
    DEFAULT_OPSET,
    Progress,
    check_precisions,
    graph_file,
    measured_artifacts,
    versions,
    write_encode_graphs,
    write_graphs,
)
from coda_export.folding import Folded
from coda_export.graphs import graph_opset
from coda_export.int8 import Calibration, calibrated, scales_for
from coda_export.kernels import import_triton, write_kernels
from coda_export.layers import LayersOf
from coda_runtime.build.bundle import EngineRequest, build_into, check_request, extending, with_engines
from coda_runtime.build.measuring import with_parity
from coda_runtime.errors import InputError, OutputError
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.format.manifest import Manifest
from coda_runtime.format.parts import DECODER, ENCODE, ENCODER, QUANTIZER
from coda_runtime.format.precision import DEFAULT_THRESHOLDS, Threshold
from coda_runtime.parity import ParityImages, ParityMeter, Reference, SavedReference, recorded_thresholds


def check_lacks(bundle: Bundle, precisions: Sequence[str], *, single_graph: bool = False) -> None:
    """Raise ``InputError`` for a precision that the bundle has, ``OutputError`` for a file that would be lost."""
    check_precisions(precisions)
    if there := [name for name in precisions if name in bundle.manifest.precisions]:
        raise InputError(
            f"{bundle.folder} has {', '.join(there)} already: name precisions that it lacks, or export all of it again "
            f"with --out {bundle.folder} --force, which removes its engines"
        )
    parts = (ENCODER, DECODER, *([ENCODE] if single_graph else []))
    for file in (graph_file(part.name, precision) for part in parts for precision in precisions):
        if os.path.lexists(bundle.folder / file):
            raise OutputError(f"{bundle.folder} holds {file!r}, which is not the bundle's and would be lost: move it")


def add_precisions(
    folded: Folded,
    reference: Reference,
    bundle: str | os.PathLike[str],
    images: ParityImages,
    *,
    precisions: Sequence[str],
    calibration: Calibration | None = None,
    engines: Sequence[EngineRequest] = (),
    kernels: bool = False,
    single_graph: bool = False,
    thresholds: Mapping[str, Threshold] = DEFAULT_THRESHOLDS,
    opset: int = DEFAULT_OPSET,
    layers: LayersOf | None = None,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Add an encoder and a decoder in each of ``precisions`` to a bundle of the same tokenizer; return its manifest.

    What the bundle has stays as it is: its quantizer, with which the new graphs are measured, its tables, its engines,
    its default precision. ``engines`` are built for the new precisions; ``kernels`` are compiled where it has none.
    The rest is as for `coda_export.export_bundle`. The bundle is verified first.

    Raises as that does, and ``InputError`` for a precision that the bundle has or a tokenizer of another shape,
    ``BundleError`` for a bundle that is broken.
    """
    for request in engines:
        check_request(request)
    if kernels:
        import_triton()
    source = Bundle.open(bundle)
    check_lacks(source, precisions, single_graph=single_graph)
    before = source.manifest
    floors = {name: threshold.to_json() for name, threshold in recorded_thresholds(before).items()}
    if folded.spec.to_json() != source.spec.to_json():
        raise InputError(f"{source.folder} is of another tokenizer, of other sizes: name the one it was exported from")
    if single_graph and not before.find(QUANTIZER.name, format="onnx"):
        raise InputError(
            f"{source.folder} has no quantizer in ONNX to join with an encoder: leave the single graph out"
        )
    source.verify()
    samples = SavedReference.open(source).samples.images if before.find("parity", format="npz") else None
    scales = scales_for(precisions, calibration, reference, images.pixels, samples)
    with extending(source, "a precision was added to it") as folder:
        written, _ = write_graphs(folder, folded, precisions, opset, progress, scales=scales)
        if single_graph:
            (quantizer,) = before.find(QUANTIZER.name, format="onnx")
            written += write_encode_graphs(folder, precisions, progress, quantizer=quantizer.file)
        told: dict[str, Any] = {
            "opset": {precision: graph_opset(precision, opset) for precision in precisions},
            "added": {precision: versions() for precision in precisions},
            **calibrated(precisions, scales),
        }
        manifest = dataclasses.replace(
            before,
            artifacts=(*before.artifacts, *written),
            provenance={
                **before.provenance,
                **{key: {**_object(before.provenance.get(key)), **new} for key, new in told.items()},
                "floors": floors | {name: thresholds[name].to_json() for name in precisions},
            },
        )
        meter = ParityMeter(Bundle(folder, manifest, b""), reference, images)
        measured = [*measured_artifacts(meter, written, thresholds, progress, layers)]
        if kernels and not before.find(QUANTIZER.name, format="ptx"):
            progress("compiling the quantizer's GPU kernels")
            artifact = write_kernels(folder, folded.quantizer.search, folded.spec)
            measured.append(with_parity(Bundle(folder, with_engines(manifest, [artifact]), b""), artifact))
        manifest = with_engines(manifest, measured)
        for request in engines:
            own = dataclasses.replace(request, precisions=tuple(precisions))
            manifest = build_into(folder, manifest, own, progress=progress)
        return seal(folder, manifest)


def _object(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
