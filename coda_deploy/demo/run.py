"""The steps of the demo, from the sample tokenizer to the report."""

from __future__ import annotations

import filecmp
import platform
import shutil
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import coda_runtime
from coda_deploy import photographs
from coda_deploy.demo.codes import usage
from coda_deploy.demo.report import render
from coda_deploy.demo.results import LOWER, DemoResults, Int8, NoInt8, Pixels
from coda_deploy.demo.timing import BATCHES, compare, compare_precisions
from coda_deploy.export import SHIPPED, export_tokenizer
from coda_deploy.reference import TorchReference
from coda_deploy.sample import tokenizer_path
from coda_deploy.tokenizer.lora import without_lora
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
from coda_runtime.io.counts import count
from coda_runtime.parity import ParityError
from coda_runtime.site import write_site

Progress = Callable[[str], None]
TOKENIZER, BUNDLE, REPORT, PAGE = "tokenizer", "bundle", "report.html", "page"
# What the bundle holds; the first is its default.
PRECISIONS = (FP32, LOWER)
# What `run_demo` reports through its progress: 8 by itself, 13 by the export, 4 timings of parts and 2 of precisions at
# each batch size.
STEPS = 8 + 13 + (4 + 2) * len(BATCHES)


def run_demo(
    out: Path,
    *,
    tokenizer: Path | None = None,
    coda: str = "coda",
    progress: Progress = lambda _: None,
) -> DemoResults:
    """Run the sample tokenizer (or another ``tokenizer`` folder) end to end on the shipped photographs.

    Leaves ``out/tokenizer``, ``out/bundle``, ``out/report.html``, whose commands call ``coda``, and ``out/page``, which
    runs the bundle in a browser; other files in ``out`` stay. The bundle is in fp32, which is its default, and int8;
    where int8 misses its threshold it is in fp32 alone, which is warned of and told in the report. Raises
    ``InputError`` where there is no tokenizer, ``ParityError`` when fp32 misses its threshold, ``OutputError`` when
    ``out`` cannot be written; nothing is left then.
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
        manifest, missing = _export(folder, progress)
        results = _look(folder, manifest, missing, progress)
        progress("writing the report")
        page = render(results, out=out, coda=coda)
        (folder / REPORT).write_text(page, encoding="utf-8")
        progress("writing the page that runs it in a browser")
        write_site(Bundle.open(folder / BUNDLE), folder / PAGE, precisions=manifest.precisions)
    return results


def _export(folder: Path, progress: Progress) -> tuple[Manifest, NoInt8 | None]:
    """Export in PRECISIONS; where int8 fails in fp32 alone, with what it failed with.

    Of the mean of eight photographs a twentieth of a dB is chance, so on another processor, whose scales differ in
    the last digits, even the sample may be over its threshold.
    """
    try:
        return export_tokenizer(folder / TOKENIZER, folder / BUNDLE, precisions=PRECISIONS, progress=progress), None
    except (InputError, ParityError) as error:  # InputError: no scale can be taken for one of its layers
        reason = str(error)
    # What was not int8's fails here again.
    manifest = export_tokenizer(folder / TOKENIZER, folder / BUNDLE, precisions=(FP32,), progress=progress)
    warnings.warn(f"the demo goes on in {FP32} alone, for {LOWER} fell short: {reason}", RuntimeWarning, stacklevel=3)
    return manifest, NoInt8(reason)


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
        manifest = Bundle.open(bundle).manifest
    except BundleError:  # there is none, or none that anybody could use
        return
    own = PRECISIONS if _calibration(manifest) in (None, SHIPPED) else (FP32,)
    added = [found.file for found in manifest.artifacts if found.engine is not None or found.precision not in own]
    if added:
        raise OutputError(
            f"{bundle} holds {added[0]!r}, which the demo did not make and would lose: move it, or choose another --out"
        )


def _calibration(manifest: Manifest) -> object:
    """Return where the images are from that int8's scales were taken from; None where the manifest does not tell."""
    told = manifest.provenance.get("calibration")
    entry = told.get(LOWER) if isinstance(told, dict) else None
    return entry.get("images_from") if isinstance(entry, dict) else None


def _look(folder: Path, manifest: Manifest, missing: NoInt8 | None, progress: Progress) -> DemoResults:
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
        int8 = missing or _in_int8(folder / BUNDLE, runtime, originals, progress)
    progress("the continuous VAE, without the quantizer")
    with without_lora(tokenizer.vae), torch.inference_mode():
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
        int8=int8,
        manifest=manifest,
        machine=_machine(sorted({timing.threads for timing in timings})),
    )


def _in_int8(bundle: Path, fp32: coda_runtime.Tokenizer, originals: Pixels, progress: Progress) -> Int8:
    progress("photographs to tokens and back in int8")
    with coda_runtime.load(bundle, device="cpu", precision=LOWER) as int8:
        return Int8(int8.reconstruct(originals), compare_precisions(fp32, int8, originals, progress))


def _machine(threads: Sequence[int]) -> dict[str, str]:
    found = diagnose()
    cpu, ort = found["cpu"], found["onnxruntime"] or {}
    return {
        "CPU": f"{cpu['model'] or cpu['machine']}, {count(cpu['cores'], 'core')}",
        "threads": f"{', '.join(map(str, threads))} in PyTorch; in onnxruntime its own choice, one a physical core",
        "system": platform.system(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "onnxruntime": str(ort.get("version")),
        "coda-runtime": version("coda-runtime"),
    }
