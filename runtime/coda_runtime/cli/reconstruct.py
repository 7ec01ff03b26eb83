"""`coda reconstruct`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..backends.base import LoadOptions
from ..codes.metrics import json_number, psnr_per_image
from ..images import fit
from ..io.atomic_files import staged_folder
from ..io.filenames import png_names
from ..loading import open_tokenizer
from .base import command as coda_command
from .base import json_option, print_json, progress, table
from .options import bundle_argument, force_option, images_argument, load_options
from .png import save_png
from .sources import collect, keep_existing, keep_sources


@coda_command(name="reconstruct", example="coda reconstruct bundle photos/ --out pictures --side-by-side")
@bundle_argument
@images_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write PNG files to.")
@force_option
@click.option("--side-by-side", is_flag=True, help="Put the original to the left of each reconstruction.")
@json_option
@load_options()
def command(
    bundle: str,
    images: tuple[Path, ...],
    out: Path,
    force: bool,
    side_by_side: bool,
    as_json: bool,
    options: LoadOptions,
) -> None:
    """Encode and decode IMAGES, files and folders; write the results and report their PSNR.

    PSNR is in dB against the image as the tokenizer sees it: resized by its shorter side and cropped at the centre.
    """
    sources = collect(images)
    names = png_names([source.name for source in sources])
    keep_sources(sources, [out / name for name in names])
    keep_existing(out, names, force=force)
    scores: list[float] = []
    with (
        open_tokenizer(bundle, options) as tok,
        staged_folder(out) as folder,
        progress("reconstructing", len(sources)) as bar,
    ):
        for start in range(0, len(sources), tok.images_per_run):
            part = sources[start : start + tok.images_per_run]
            originals = np.stack([fit(source.path, tok.spec.image_size) for source in part])
            reconstructions = tok.reconstruct(originals)
            scores += psnr_per_image(originals, reconstructions).tolist()
            for original, reconstruction, name in zip(originals, reconstructions, names[start:], strict=False):
                save_png(
                    folder / name,
                    np.concatenate([original, reconstruction], axis=1) if side_by_side else reconstruction,
                )
            bar.advance(len(part))
    mean = float(np.mean(scores))
    if as_json:
        results = [
            {"name": source.name, "file": name, "psnr": json_number(score)}
            for source, name, score in zip(sources, names, scores, strict=True)
        ]
        print_json({"num_images": len(sources), "psnr": json_number(mean), "out": str(out), "images": results})
        return
    rows = [(source.name, f"{score:.2f}") for source, score in zip(sources, scores, strict=True)]
    table([*rows, ("mean", f"{mean:.2f}")], columns=("image", "PSNR dB"))
