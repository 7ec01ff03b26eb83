"""Export and verify: the pipeline from a tokenizer folder to a measured bundle, as functions."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np

from coda_deploy import calibration as calibration_photographs
from coda_deploy import photographs
from coda_deploy.folding import fold_tokenizer
from coda_deploy.layers import TorchActivations
from coda_deploy.reference import TorchReference
from coda_deploy.tokenizer import storage
from coda_deploy.tokenizer.config import Statistic
from coda_deploy.tokenizer.model import CodaTokenizer
from coda_deploy.tokenizer.origin import compare
from coda_deploy.tokenizer.source import Source, open_source
from coda_export import DEFAULT_THRESHOLDS, Calibration, ParityImages, Threshold, add_precisions, export_bundle
from coda_export.bundle import check_out
from coda_export.extension import check_lacks
from coda_export.layers import PartLayers, compare_bundle
from coda_runtime.backends.base import LoadOptions
from coda_runtime.build.bundle import EngineRequest
from coda_runtime.errors import InputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Manifest
from coda_runtime.format.parity import parity_json
from coda_runtime.format.precision import FP32, PRECISIONS, precision_of
from coda_runtime.format.sizes import Scales, Size
from coda_runtime.images import fit
from coda_runtime.io.counts import count
from coda_runtime.io.image_files import expected_suffixes, find_images
from coda_runtime.parity import ParityError, ParityMeter, check_threshold, recorded_thresholds, threshold_of

# Enough to see a share of 0.1 % of the tokens, few enough to stay within seconds.
MAX_PARITY_IMAGES = 16
# More change little: benchmarks/bench_int8.py.
MAX_CALIBRATION_IMAGES = 64
# How a manifest calls the photographs of this package.
SHIPPED = "photographs shipped with coda-deploy"


def parity_images(size: Size, folder: Path | None = None) -> ParityImages:
    """Return the shipped photographs or up to MAX_PARITY_IMAGES of a folder, cropped to ``size`` by the official rule.

    Raises ``ImageError`` for unreadable images or folders and ``InputError`` for a folder without any.
    """
    if folder is None:
        files, source = photographs.paths(), SHIPPED
    else:
        files, source = _chosen(folder, MAX_PARITY_IMAGES)
    return ParityImages(np.stack([fit(path, size) for path in files]), source)


def calibration_images(size: Size, folder: Path | None = None) -> Calibration:
    """Return the shipped photographs that int8's scales are taken from, or up to MAX_CALIBRATION_IMAGES of a folder.

    They are cropped to ``size`` by the official rule. Raises as `parity_images` does.
    """
    if folder is None:
        files, source = calibration_photographs.paths(), SHIPPED
    else:
        files, source = _chosen(folder, MAX_CALIBRATION_IMAGES)
    return Calibration(np.stack([fit(path, size) for path in files]), [path.name for path in files], source)


def _chosen(folder: Path, limit: int) -> tuple[list[Path], str]:
    """Return up to ``limit`` images of a folder, and how they are called in a manifest."""
    found = find_images(folder)
    files = [folder / name for name in found.images]
    if not files:
        raise InputError(f"{folder} holds no images ({expected_suffixes()}){found.left_out()}: name a folder that does")
    return files[:limit], f"{min(len(files), limit)} of {count(len(files), 'image')} of the user's"


def _source(source: Source, tokenizer: CodaTokenizer) -> dict[str, Any]:
    return {"file": storage.WEIGHTS_NAME, "sha256": source.digest(tokenizer.state_dict())}


def describe_vae(tokenizer: CodaTokenizer) -> dict[str, Any]:
    """Return what `coda inspect` tells of the VAE: its class and source, its latent, and what became of its parts.

    Read by `coda_runtime.format.vae_record`.
    """
    config, origin = tokenizer.config, tokenizer.origin
    return {
        "class": config.family.class_name,
        "source": None if origin is None else origin.source,
        "latent_scale": _plain(config.latent_scale),
        "latent_shift": _plain(config.latent_shift),
        "statistics": None if origin is None else origin.statistics,
        **compare(tokenizer.vae, origin),
    }


def _plain(statistic: Statistic) -> float | list[float]:
    return list(statistic) if isinstance(statistic, tuple) else statistic


def export_tokenizer(
    tokenizer: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precisions: Sequence[str] = (FP32,),
    engines: Sequence[EngineRequest] = (),
    kernels: bool = False,
    single_graph: bool = False,
    thresholds: Mapping[str, Threshold] = DEFAULT_THRESHOLDS,
    images: Path | None = None,
    calibration: Path | None = None,
    image_size: Size | None = None,
    scales: Scales | None = None,
    replace: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Export a tokenizer to a bundle at ``out``; see `coda_export.export_bundle`.

    ``tokenizer`` is a folder, a hub id, or ``official:VARIANT``, as ``CodaTokenizer.from_pretrained`` takes it.

    ``images`` is a folder of the user's photographs to measure parity on; the shipped ones by default. What the bundle
    carries as samples are always the shipped ones, since it may be published. ``calibration`` is a folder of images to
    take int8's scales from, others than those; the shipped ones by default. ``image_size`` and ``scales`` are of
    `CodaTokenizer.at_size`, for a bundle of another size.
    """
    check_out(Path(out), replace=replace)
    progress("loading the tokenizer")
    source = open_source(tokenizer)
    loaded = CodaTokenizer.from_source(source)
    if (image_size, scales) != (None, None):
        loaded = loaded.at_size(loaded.config.image_size if image_size is None else image_size, scales)
    config = loaded.config
    provenance = {
        "source": _source(source, loaded),
        **({} if loaded.checkpoint is None else {"checkpoint": loaded.checkpoint}),
        "vae": describe_vae(loaded),
        "tokenizer": json.loads(json.dumps(config.to_json())),
        "diffusers": diffusers.__version__,
    }
    shipped = parity_images(config.image_size)
    return export_bundle(
        fold_tokenizer(loaded),
        TorchReference(loaded),
        out,
        shipped if images is None else parity_images(config.image_size, images),
        samples=shipped.pixels,
        calibration=_calibration(precisions, config.image_size, calibration),
        precisions=precisions,
        engines=engines,
        kernels=kernels,
        single_graph=single_graph,
        thresholds=thresholds,
        provenance=provenance,
        license=config.license,
        layers=functools.partial(TorchActivations, loaded),
        replace=replace,
        progress=progress,
    )


def extend_bundle(
    tokenizer: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    precisions: Sequence[str],
    engines: Sequence[EngineRequest] = (),
    kernels: bool = False,
    single_graph: bool = False,
    thresholds: Mapping[str, Threshold] = DEFAULT_THRESHOLDS,
    images: Path | None = None,
    calibration: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Add precisions to a bundle that was exported from ``tokenizer``; see `coda_export.add_precisions`.

    Raises ``InputError`` when it was made of another tokenizer.
    """
    opened = Bundle.open(bundle)
    check_lacks(opened, precisions, single_graph=single_graph)
    progress("loading the tokenizer")
    loaded = _load_own_tokenizer(opened, tokenizer)
    return add_precisions(
        fold_tokenizer(loaded),
        TorchReference(loaded),
        bundle,
        parity_images(loaded.config.image_size, images),
        calibration=_calibration(precisions, loaded.config.image_size, calibration),
        precisions=precisions,
        engines=engines,
        kernels=kernels,
        single_graph=single_graph,
        thresholds=thresholds,
        layers=functools.partial(TorchActivations, loaded),
        progress=progress,
    )


def _calibration(precisions: Sequence[str], size: Size, folder: Path | None) -> Calibration | None:
    """Return what int8 is calibrated on, None where it is not asked for. Raises ``InputError`` for a folder then."""
    if any(precision_of(name).is_integer for name in precisions):
        return calibration_images(size, folder)
    if folder is not None:
        integers = [name for name, known in PRECISIONS.items() if known.is_integer]
        raise InputError(f"--calibration is for {', '.join(integers)}, which is not asked for: add it to --precision")
    return None


def _load_own_tokenizer(bundle: Bundle, tokenizer: str | os.PathLike[str]) -> CodaTokenizer:
    """Load ``tokenizer``. Raises ``InputError`` unless ``bundle`` was made of it."""
    told = bundle.manifest.provenance.get("source")
    made_of = told.get("sha256") if isinstance(told, dict) else None
    if not isinstance(made_of, str):
        raise InputError(f"{bundle.folder} does not say which tokenizer it was made of: export it with coda export")
    source = open_source(tokenizer)
    loaded = CodaTokenizer.from_source(source)
    found = _source(source, loaded)["sha256"]
    if made_of != found:
        raise InputError(
            f"{bundle.folder} was made of a tokenizer with weights {made_of[:12]}, and {tokenizer} has {found[:12]}: "
            "name the tokenizer it was exported from"
        )
    spec, own = bundle.spec, loaded.config
    same = (own.image_size, own.scales) == (spec.image_size, spec.scales)
    return loaded if same else loaded.at_size(spec.image_size, spec.scales)


def verify_layers(
    bundle: Path, options: LoadOptions, tokenizer: str | os.PathLike[str] | None = None
) -> Iterator[PartLayers]:
    """Compare the layers of a bundle's graphs: see `coda_export.layers.compare_bundle`.

    ``tokenizer`` is what the bundle was made of, and its own modules what the graphs are compared with; without it they
    are compared with the bundle's fp32 graphs. Raises as that does, and ``InputError`` for another tokenizer.
    """
    opened = Bundle.open(bundle)
    beside = None if tokenizer is None else functools.partial(TorchActivations, _load_own_tokenizer(opened, tokenizer))
    return compare_bundle(opened, options, beside)


def verify_parity(bundle: Path, tokenizer: str | os.PathLike[str], images: Path | None = None) -> dict[str, Any]:
    """Measure a bundle's graphs again beside the tokenizer it was made of: {file: {backend: numbers}}.

    A graph in a precision that has no threshold gets the ``reason`` for not having been measured.

    Raises ``InputError`` when the bundle was made of another tokenizer, ``ParityError`` under a threshold it was
    exported with.
    """
    opened = Bundle.open(bundle)
    loaded = _load_own_tokenizer(opened, tokenizer)
    meter = ParityMeter(opened, TorchReference(loaded), parity_images(loaded.config.image_size, images))
    thresholds = {**DEFAULT_THRESHOLDS, **recorded_thresholds(opened.manifest)}
    measured: dict[str, Any] = {}
    for artifact in opened.manifest.artifacts:
        if artifact.format != "onnx":
            continue
        try:
            threshold = threshold_of(thresholds, artifact.precision)
        except ParityError as error:
            measured[artifact.file] = {"onnxruntime:cpu": meter.not_run(artifact, error).to_json()}
            continue
        records = meter.measure(artifact)
        for record in records.values():
            check_threshold(artifact.part, artifact.precision, record, threshold)
        measured[artifact.file] = parity_json(records)
    return measured
