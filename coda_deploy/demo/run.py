"""The steps of the demo, from the sample tokenizer to the report."""

from __future__ import annotations

import filecmp
import platform
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import coda_runtime
from coda_deploy import photographs
from coda_deploy.demo.codes import usage
from coda_deploy.demo.lowered import LOWERED, lowered_beside
from coda_deploy.demo.lowered import STEPS as LOWERED_STEPS
from coda_deploy.demo.report import render
from coda_deploy.demo.results import DemoResults
from coda_deploy.demo.timing import BATCHES, compare
from coda_deploy.export import export_tokenizer
from coda_deploy.reference import TorchReference
from coda_deploy.sample import tokenizer_path
from coda_deploy.tokenizer.model import CodaTokenizer
from coda_deploy.tokenizer.pixels import to_pixels
from coda_deploy.tokenizer.storage import WEIGHTS_NAME
from coda_runtime.diagnose import diagnose
from coda_runtime.errors import BundleError, InputError, OutputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Manifest
from coda_runtime.format.precision import FP32
from coda_runtime.images import fit
from coda_runtime.io.atomic_files import staged_folder

Progress = Callable[[str], None]
TOKENIZER, BUNDLE, REPORT = "tokenizer", "bundle", "report.html"
# What `run_demo` reports through its progress on the sample: 6 by itself, 13 by the export in two precisions, 4 timings
# at each batch size, and those of the lower precision.
STEPS = 6 + 13 + 4 * len(BATCHES) + LOWERED_STEPS


def run_demo(
    out: Path,
    *,
    tokenizer: Path | None = None,
    coda: str = "coda",
    progress: Progress = lambda _: None,
) -> DemoResults:
    """Run the sample tokenizer (or another ``tokenizer`` folder) end to end on the shipped photographs.

    The sample is exported in float32 and in LOWERED beside it, another tokenizer, which may lose too much by that, in
    float32 alone.

    Leaves ``out/tokenizer``, ``out/bundle`` and ``out/report.html``, whose commands call ``coda``; other files in
    ``out`` stay. Raises ``InputError`` where there is no tokenizer, ``ParityError`` when the export misses its
    threshold, ``OutputError`` when ``out`` cannot be written; nothing is left then.
    """
    source = tokenizer or tokenizer_path()
    if not source.is_dir():
        raise InputError(f"there is no tokenizer at {source}: install coda-deploy again, it ships with one")
    _check_tokenizer(out, source)
    _check_bundle(out / BUNDLE)
    with staged_folder(out) as folder:
        progress("copying the sample tokenizer")
        (folder / TOKENIZER).mkdir()
        for file in sorted(source.iterdir()):
            if file.is_file():
                shutil.copyfile(file, folder / TOKENIZER / file.name)
        precisions = (FP32, LOWERED) if tokenizer is None else (FP32,)
        manifest = export_tokenizer(folder / TOKENIZER, folder / BUNDLE, precisions=precisions, progress=progress)
        results = _look(folder, manifest, progress)
        progress("writing the report")
        page = render(results, out=out, coda=coda)
        (folder / REPORT).write_text(page, encoding="utf-8")
    return results


def _check_tokenizer(out: Path, source: Path) -> None:
    """Raise ``OutputError`` for a tokenizer that no demo wrote: not this one, and not there when a demo's page was."""
    weights, page = out / TOKENIZER / WEIGHTS_NAME, out / REPORT
    if not weights.is_file():
        return
    if (source / WEIGHTS_NAME).is_file() and filecmp.cmp(weights, source / WEIGHTS_NAME, shallow=False):
        return
    if not page.is_file() or page.stat().st_mtime < weights.stat().st_mtime:
        raise OutputError(
            f"{out / TOKENIZER} is a tokenizer that the demo did not make and would replace: choose another --out"
        )


def _check_bundle(bundle: Path) -> None:
    """Raise ``OutputError`` for a bundle that somebody has gone on with since a demo wrote it."""
    try:
        artifacts = Bundle.open(bundle).manifest.artifacts
    except BundleError:  # there is none, or none that anybody could use
        return
    made = (FP32, LOWERED)
    added = [artifact.file for artifact in artifacts if artifact.engine is not None or artifact.precision not in made]
    if added:
        raise OutputError(
            f"{bundle} holds {added[0]!r}, which the demo did not make and would lose: move it, or choose another --out"
        )


def _look(folder: Path, manifest: Manifest, progress: Progress) -> DemoResults:
    size = manifest.spec.image_size
    originals = np.stack([fit(path, size) for path in photographs.paths()])
    with coda_runtime.load(folder / BUNDLE, device="cpu") as runtime:
        progress("photographs to tokens and back, without PyTorch")
        ids = runtime.encode(originals)
        reconstructions = runtime.decode(ids)
        progress("growing the images scale by scale")
        prefixes = [runtime.decode(ids[:, :length]) for length in manifest.spec.prefix_lengths]
        scales, latent, codebook = runtime.split(ids), runtime.embed(ids), np.array(runtime.codebook)
        progress("the same in PyTorch")
        tokenizer = CodaTokenizer.from_pretrained(folder / TOKENIZER)
        timings = compare(runtime, TorchReference(tokenizer), originals, progress)
        has_lowered = LOWERED in manifest.precisions
        lowered = lowered_beside(runtime, folder / BUNDLE, originals, progress) if has_lowered else None
    progress("the continuous VAE, without the quantizer")
    with torch.inference_mode():
        continuous = to_pixels(tokenizer.decode_latent(tokenizer.encode_latent(torch.from_numpy(originals)))).numpy()
    return DemoResults(
        names=photographs.NAMES,
        originals=originals,
        reconstructions=reconstructions,
        continuous=continuous,
        prefixes=prefixes,
        ids=ids,
        scales=scales,
        latent=latent,
        codebook=codebook,
        usage=usage(scales, manifest.spec.vocab_size),
        timings=timings,
        manifest=manifest,
        machine=_machine(sorted({timing.threads for timing in timings})),
        lowered=lowered,
    )


def _machine(threads: Sequence[int]) -> dict[str, str]:
    found = diagnose()
    cpu, ort = found["cpu"], found["onnxruntime"] or {}
    return {
        "CPU": f"{cpu['model'] or cpu['machine']}, {cpu['cores']} cores",
        "threads": f"{', '.join(map(str, threads))} in PyTorch; in onnxruntime its own choice, one a physical core",
        "system": platform.system(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "onnxruntime": str(ort.get("version")),
        "coda-runtime": version("coda-runtime"),
    }
