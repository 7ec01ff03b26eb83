"""`coda encode`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..backends.base import LoadOptions
from ..codes.tokens_file import write_tokens
from ..io.atomic_files import staged_file
from ..loading import open_tokenizer
from .base import command as coda_command
from .base import progress
from .options import bundle_argument, images_argument, load_options
from .sources import collect, keep_sources


@coda_command(name="encode", example="coda encode bundle photos/ extra.jpg --out tokens.npz")
@bundle_argument
@images_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .npz file to write.")
@load_options()
def command(bundle: str, images: tuple[Path, ...], out: Path, options: LoadOptions) -> None:
    """Turn IMAGES, files and folders, into tokens.

    The .npz file has ids (int32 [N,L]), names, scales, vocab_size and made_with, which tells the tokenizer.
    """
    sources = collect(images)
    keep_sources(sources, [out])
    with (
        open_tokenizer(bundle, options) as tok,
        staged_file(out) as beside,
        progress("encoding", len(sources)) as bar,
    ):
        ids = np.empty((len(sources), tok.spec.num_tokens), dtype=np.int32)
        for start in range(0, len(sources), tok.images_per_run):
            part = sources[start : start + tok.images_per_run]
            ids[start : start + len(part)] = tok.encode([source.path for source in part])
            bar.advance(len(part))
        write_tokens(beside, ids, [source.name for source in sources], tok)
    click.echo(f"{len(sources)} images, {ids.shape[1]} tokens each: {out}")
