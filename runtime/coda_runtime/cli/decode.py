"""`coda decode`."""

from __future__ import annotations

from pathlib import Path

import click

from ..backends.base import LoadOptions
from ..errors import TokenError
from ..io.atomic_files import staged_folder
from ..io.counts import count
from ..io.filenames import png_names
from .base import command as coda_command
from .base import json_option, print_json, progress, warn
from .options import bundle_argument, force_option, load_options
from .png import save_png
from .sources import keep_existing


@coda_command(
    name="decode",
    example="coda decode bundle tokens.npz --out pictures\ncoda decode bundle tokens.npz --out coarse --scales 4",
)
@bundle_argument
@click.argument("tokens", metavar="TOKENS.npz", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write PNG files to.")
@force_option("pictures of the same names in --out")
@click.option("--scales", type=click.IntRange(min=1), help="Decode only the first N scales.")
@json_option
@load_options(but=["color"])
def command(
    bundle: str, tokens: Path, out: Path, force: bool, scales: int | None, as_json: bool, options: LoadOptions
) -> None:
    """Turn tokens back into images, one PNG each, named after the image they came from.

    TOKENS.npz is what `coda encode` writes, or any .npz file with ids: int32 [N,L].
    """
    from ..codes.tokens_file import read_tokens
    from ..loading import open_tokenizer

    with open_tokenizer(bundle, options) as tok:
        file = read_tokens(tokens, tok)
        if not file.known:
            told = "does not say which tokenizer made its tokens; unless it was this one, they stand for other images"
            warn(f"{tokens} {told}")
        ids = file.ids[:, : _prefix(tok.spec.prefix_lengths, scales)]
        names = png_names(file.names)
        keep_existing(out, names, force=force)
        with staged_folder(out) as folder, progress("decoding", len(ids)) as bar:
            for start in range(0, max(1, len(ids)), tok.images_per_run):
                images = tok.decode(ids[start : start + tok.images_per_run])
                for image, name in zip(images, names[start:], strict=False):
                    save_png(folder / name, image)
                bar.advance(len(images))
    if as_json:
        images_told = [{"name": name, "file": written} for name, written in zip(file.names, names, strict=True)]
        print_json({"out": str(out), "num_images": len(ids), "num_tokens": ids.shape[1], "images": images_told})
        return
    click.echo(f"{count(len(ids), 'image')}: {out}")


def _prefix(lengths: tuple[int, ...], scales: int | None) -> int:
    if scales is None:
        return lengths[-1]
    if scales > len(lengths):
        raise TokenError(
            f"--scales is {scales}, and this tokenizer has {count(len(lengths), 'scale')}; give 1 to {len(lengths)}"
        )
    return lengths[scales - 1]
