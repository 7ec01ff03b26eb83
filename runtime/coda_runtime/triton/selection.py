"""Which files of a bundle Triton is to serve, and what it has to know about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BundleError, CodaError, InputError
from ..format.bundle import Bundle
from ..format.parts import PARTS
from ..format.profiles import Batch
from ..format.sizes import count_of
from ..tokenizer import MAX_PIXELS_PER_GPU_RUN, MAX_PIXELS_PER_RUN
from .options import RepositoryOptions
from .parts import ServedFile, ServedPart, find
from .plans import check_measured, largest_batch, plan_parts, server_notes

# More images than this in one batch gain nothing, and small tokenizers would take thousands.
_DEFAULT_MAX_BATCH = 64


@dataclass(frozen=True)
class Selection:
    """The models to write, and `notes` for whoever runs the server: what was skipped, what has to match."""

    precision: str
    parts: tuple[ServedPart, ...]
    notes: tuple[str, ...] = ()


def select(bundle: Bundle, options: RepositoryOptions) -> Selection:
    """Choose the files to serve. Nothing but the manifest is read.

    Raises InputError for a precision or batch that the bundle does not have, BundleError for engines that no server
    could load together, EngineMismatchError for those that do not belong to the bundle's ONNX files.
    """
    precision = options.choose_precision(bundle.manifest.precisions)
    if options.format == "tensorrt":
        return _tensorrt(bundle, precision, options)
    notes: tuple[str, ...] = ()
    if options.format == "auto" and options.device == "gpu":
        try:
            chosen = _tensorrt(bundle, precision, options)
            check_measured(chosen.parts, bundle)
        except CodaError as error:
            # A bundle of ONNX files alone was never meant to be served otherwise: no word about it.
            if any(artifact.format.startswith("tensorrt") for artifact in bundle.manifest.artifacts):
                notes = (f"ONNX files are served, not TensorRT engines: {error}",)
        else:
            return chosen
    return Selection(precision, _onnx_parts(bundle, precision, options), notes)


def check_request(options: RepositoryOptions, precisions: Sequence[str], batches: Sequence[Sequence[Batch]]) -> None:
    """Find what `select` would refuse in a bundle that is yet to be made.

    It is going to have `precisions`, the default first, and TensorRT engines each with these batch profiles. Raises
    InputError.
    """
    options.choose_precision(precisions)
    if options.format == "tensorrt":
        if not batches:
            raise InputError("Triton is to serve TensorRT engines, and none is built: add --engine tensorrt")
        largest_batch(batches, options.max_batch, "the engines")


def _tensorrt(bundle: Bundle, precision: str, options: RepositoryOptions) -> Selection:
    parts = plan_parts(bundle, precision, options.max_batch)
    return Selection(precision, parts, server_notes(parts))


def _onnx_parts(bundle: Bundle, precision: str, options: RepositoryOptions) -> tuple[ServedPart, ...]:
    pixels = MAX_PIXELS_PER_GPU_RUN if options.device == "gpu" else MAX_PIXELS_PER_RUN
    max_batch = options.max_batch or min(_DEFAULT_MAX_BATCH, max(1, pixels // count_of(bundle.spec.image_shape)))
    out = []
    for part in PARTS:
        files = find(bundle, part, "onnx", precision)
        if not files:
            raise BundleError(f"{bundle.folder} has no ONNX {part} in {precision}; export it again with `coda export`")
        out.append(ServedPart(part, "onnx", (ServedFile(files[0], "model.onnx"),), max_batch))
    return tuple(out)
