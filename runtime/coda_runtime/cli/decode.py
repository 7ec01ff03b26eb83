"""`coda decode`."""

from __future__ import annotations

from pathlib import Path

import click

from ..backends.base import LoadOptions
from ..errors import InputError
from ..io.atomic_files import staged_folder
from ..io.counts import count
from ..io.filenames import png_names
from .base import command as coda_command
from .base import json_option, print_json, progress, warn
from .options import bundle_argument, folders, force_option, load_options
from .sources import keep_existing

_EXAMPLE = """coda decode bundle tokens.npz --out pictures
coda decode bundle tokens.npz --out coarse --scales 4
coda decode bundle tokens/ --out pictures --shards"""


@coda_command(name="decode", example=_EXAMPLE)
@bundle_argument
@click.argument("tokens", metavar="TOKENS", shell_complete=folders)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The folder to write PNG files to, or .tar files."
)
@force_option("images of the same names in --out")
@click.option("--scales", type=click.IntRange(min=1), help="Decode only the first N scales.")
@click.option("--shards", is_flag=True, help="Of a folder: a .tar for each of its shards, instead of PNG files.")
@json_option
@load_options(but=["color"])
def command(
    bundle: str,
    tokens: str,
    out: Path,
    force: bool,
    scales: int | None,
    shards: bool,
    as_json: bool,
    options: LoadOptions,
) -> None:
    """Turn tokens back into images, one PNG each, named after the image they came from.

    TOKENS is what `coda encode` writes, or any .npz file with ids: int32 [N,L]; or what `coda tokenize` writes, a
    folder or its URL. A folder is decoded in batches, and the same command goes on where the last one was stopped.
    """
    if Path(tokens).is_dir() or "://" in tokens:
        _decode_folder(bundle, tokens, out, force, scales, shards, as_json, options)
    elif shards:
        raise InputError(f"--shards is for a folder that `coda tokenize` wrote, and {tokens!r} is none; leave it out")
    else:
        _decode_file(bundle, Path(tokens), out, force, scales, as_json, options)


def _decode_file(
    bundle: str, tokens: Path, out: Path, force: bool, scales: int | None, as_json: bool, options: LoadOptions
) -> None:
    from ..codes.ids import prefix_length
    from ..codes.tokens_file import read_tokens
    from ..images import save_png
    from ..loading import open_tokenizer

    with open_tokenizer(bundle, options) as tok:
        file = read_tokens(tokens, tok)
        if not file.known:
            told = "does not say which tokenizer made its tokens; unless it was this one, they stand for other images"
            warn(f"{tokens} {told}")
        ids = file.ids[:, : prefix_length(scales, tok.spec)]
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


def _decode_folder(
    bundle: str,
    tokens: str,
    out: Path,
    force: bool,
    scales: int | None,
    shards: bool,
    as_json: bool,
    options: LoadOptions,
) -> None:
    from ..decoding import decode_folder
    from ..loading import open_tokenizer

    with open_tokenizer(bundle, options) as tok, progress("decoding", None) as bar:
        done = decode_folder(tok, tokens, out, scales=scales, shards=shards, force=force, report=bar.reach)
    if as_json:
        told = {"out": str(out), "num_images": done.images, "num_tokens": done.tokens}
        print_json({**told, "num_computed": done.computed, "num_files": done.files})
        return
    earlier = done.images - done.computed
    were = f", {earlier:,} of them there before" if earlier else ""
    files = f" in {count(done.files, 'file')}" if shards else ""
    click.echo(f"{count(done.images, 'image')}{files}{were}: {out}")
