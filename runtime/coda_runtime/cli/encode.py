"""`coda encode`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..backends.base import LoadOptions
from ..io.atomic_files import staged_file
from ..io.counts import count
from .base import command as coda_command
from .base import json_option, print_json, progress
from .options import bundle_argument, force_option, images_argument, load_options, skip_bad_option
from .sources import SourceReader, collect, keep_file, keep_sources


@coda_command(
    name="encode",
    example="coda encode bundle photos/ extra.jpg --out tokens.npz\n"
    "coda encode bundle photos/ --skip-bad --out tokens.npz",
)
@bundle_argument
@images_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .npz file to write.")
@force_option("a file that is there")
@skip_bad_option(default=False)
@json_option
@load_options()
def command(
    bundle: str, images: tuple[Path, ...], out: Path, force: bool, skip_bad: bool, as_json: bool, options: LoadOptions
) -> None:
    """Turn IMAGES, files and folders, into tokens.

    The .npz file has ids (int32 [N,L]), names, scales, vocab_size, color, and made_with, which tells the tokenizer.
    """
    from ..codes.tokens_file import write_tokens
    from ..loading import open_tokenizer

    sources = collect(images)
    keep_sources(sources, [out])
    keep_file(out, force=force)
    with (
        open_tokenizer(bundle, options) as tok,
        staged_file(out) as beside,
        progress("encoding", len(sources)) as bar,
    ):
        reader = SourceReader(sources, tok.spec.image_size, skip_bad=skip_bad, color=options.color)
        ids = np.empty((len(sources), tok.spec.num_tokens), dtype=np.int32)
        names: list[str] = []
        for start in range(0, len(sources), tok.images_per_run):
            part, pixels = reader.read(start, tok.images_per_run)
            if part:
                ids[len(names) : len(names) + len(part)] = tok.encode(pixels)
                names += [source.name for source in part]
            bar.advance(min(tok.images_per_run, len(sources) - start))
        ids = ids[: len(names)]
        write_tokens(beside, ids, names, tok)
    reader.tell()
    if as_json:
        told = {"out": str(out), "num_images": len(names), "num_tokens": ids.shape[1]}
        print_json({**told, **reader.to_json()})
        return
    click.echo(f"{count(len(names), 'image')}, {count(ids.shape[1], 'token')} each: {out}")
