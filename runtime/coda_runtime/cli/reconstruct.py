"""`coda reconstruct`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..backends.base import LoadOptions
from ..io.atomic_files import staged_folder
from ..io.filenames import png_names
from .base import command as coda_command
from .base import json_option, print_json, progress, table
from .options import bundle_argument, force_option, images_argument, load_options, skip_bad_option
from .sources import SourceReader, collect, keep_apart, keep_existing, keep_sources


@coda_command(name="reconstruct", example="coda reconstruct bundle photos/ --out pictures --side-by-side")
@bundle_argument
@images_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write PNG files to.")
@force_option("images of the same names in --out")
@click.option("--side-by-side", is_flag=True, help="Put the original to the left of each reconstruction.")
@skip_bad_option(default=False)
@json_option
@load_options()
def command(
    bundle: str,
    images: tuple[Path, ...],
    out: Path,
    force: bool,
    side_by_side: bool,
    skip_bad: bool,
    as_json: bool,
    options: LoadOptions,
) -> None:
    """Encode and decode IMAGES, files and folders; write the results and report their PSNR.

    PSNR is in dB against the image as the tokenizer sees it: resized to cover its size and cropped at the centre.
    """
    from ..codes.metrics import json_number, psnr_per_image
    from ..images import save_png
    from ..loading import open_tokenizer

    sources = collect(images)
    keep_apart(out, images, sources)
    names = png_names([source.name for source in sources])
    keep_sources(sources, [out / name for name in names])
    keep_existing(out, names, force=force)
    name_of = dict(zip(map(id, sources), names, strict=True))
    results: list[tuple[str, str, float]] = []
    with (
        open_tokenizer(bundle, options) as tok,
        staged_folder(out) as folder,
        progress("reconstructing", len(sources)) as bar,
    ):
        reader = SourceReader(sources, tok.spec.image_size, skip_bad=skip_bad, color=options.color)
        for start in range(0, len(sources), tok.images_per_run):
            part, originals = reader.read(start, tok.images_per_run)
            reconstructions = tok.reconstruct(originals) if part else originals
            scores = psnr_per_image(originals, reconstructions).tolist() if part else []
            for source, original, reconstruction, score in zip(part, originals, reconstructions, scores, strict=True):
                name = name_of[id(source)]
                save_png(
                    folder / name,
                    np.concatenate([original, reconstruction], axis=1) if side_by_side else reconstruction,
                )
                results.append((source.name, name, score))
            bar.advance(min(tok.images_per_run, len(sources) - start))
    mean = float(np.mean([score for _, _, score in results]))
    reader.tell()
    if as_json:
        images_told = [{"name": name, "file": file, "psnr": json_number(score)} for name, file, score in results]
        told = {"num_images": len(results), "psnr": json_number(mean), "out": str(out), "images": images_told}
        print_json({**told, **reader.to_json()})
        return
    rows = [(name, f"{score:.2f}") for name, _, score in results]
    table([*rows, ("mean", f"{mean:.2f}")], columns=("image", "PSNR dB"))
