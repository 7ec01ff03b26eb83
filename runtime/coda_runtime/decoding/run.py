"""`decode_folder`: all images of a token folder, or the rest of them where a run was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from ..bulk import TokenFolder
from ..bulk.manifest import NAME as MANIFEST
from ..bulk.plan import NAME as PLAN
from ..codes.ids import prefix_length
from ..codes.tokens_file import check_maker
from ..errors import InputError, TokenError
from ..format.sizes import plain
from ..io.folder_lock import held_folder
from ..machine.processors import usable_count
from ..tokenizer import Tokenizer
from .record import NAME, Record, begin, write
from .writers import Image, PngFiles, Row, TarShards, Writer

_LOCK = ".lock"


@dataclass(frozen=True)
class Decoded:
    """What a run came to: `images` in all, `computed` of them by this run, in so many `files`, of `tokens` ids each."""

    out: str
    images: int
    computed: int
    files: int
    tokens: int


def decode_folder(
    tok: Tokenizer,
    tokens: str,
    out: Path,
    *,
    scales: int | None = None,
    shards: bool = False,
    force: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Decoded:
    """Decode all rows of a folder that `coda tokenize` finished, in batches of `tok.images_per_run`.

    Files appear whole or not at all. A run that was stopped, however that was, is continued by the same call: what is
    there is not computed again. `out` says in decoded.json what it was decoded from.

    Args:
        tok: the tokenizer that made the tokens.
        tokens: the folder, local or a URL.
        out: a local folder. PNG files in it are named after the images, in folders as they were.
        scales: decode the first so many alone; None is all.
        shards: write a .tar (WebDataset) for each shard of tokens instead of a file for each image.
        force: replace what another run left in `out`.
        report: called with (images done, images in all).

    Raises:
        OutputError: `tokens` is not finished or damaged, or `out` cannot be written.
        TokenError: another tokenizer's tokens, or `scales` that there are not.
        InputError: `out` holds other images, or another run is at work there.
        DeviceMemoryError, ClosedError: as `decode`.
    """
    if Path(tokens).is_dir() and not any((Path(tokens) / name).exists() for name in (MANIFEST, PLAN)):
        raise InputError(
            f"{tokens} is a folder that `coda tokenize` did not write; give the --out of `coda tokenize`, or the .npz "
            "file of `coda encode`"
        )
    folder = TokenFolder(tokens)
    manifest = folder.manifest
    check_maker(tokens, manifest["bundle"]["fingerprints"], tok)
    if folder.spec != tok.spec:
        raise TokenError(f"{tokens} was made for {plain(folder.spec.image_size)} px, and {tok.folder} has another spec")
    length = prefix_length(scales, tok.spec)
    decoder = next(artifact for artifact in tok.artifacts if artifact.part == "decoder")
    record = Record(
        [shard["ids_sha256"] for shard in manifest["shards"]],
        tok.fingerprints[0],
        decoder.precision,
        len(tok.spec.scales) if scales is None else scales,
        shards,
    )
    try:
        with held_folder(out, _LOCK), ThreadPoolExecutor(usable_count()) as pool:
            return _run(tok, folder, out, record, length, pool, force, report)
    except BlockingIOError as error:
        raise InputError(
            f"another run is writing to {out}; wait for it to end, stop it, or choose another --out"
        ) from error


def _run(
    tok: Tokenizer,
    folder: TokenFolder,
    out: Path,
    record: Record,
    length: int,
    pool: ThreadPoolExecutor,
    force: bool,
    report: Callable[[int, int], None] | None,
) -> Decoded:
    sizes = folder.shard_rows
    writer: Writer
    if record.shards:
        writer = TarShards(out, len(sizes), pool)
        named = [f"images-{shard:05d}.tar" for shard in range(len(sizes))]
    else:
        writer = PngFiles(out, [row["path"] for row in folder], pool)
        named = writer.names
    _prepare(out, record, named, force=force)
    computed = done = 0
    for shard, (start, stop) in enumerate(pairwise(accumulate(sizes, initial=0))):
        missing = writer.missing(shard, range(start, stop))
        done += stop - start - len(missing)
        if missing:
            writer.write(shard, _batches(tok, folder, missing, length))
            computed, done = computed + len(missing), done + len(missing)
        if report is not None:
            report(done, len(folder))
    write(out, record, finished=True)
    return Decoded(str(out), len(folder), computed, writer.files(), length)


def _prepare(out: Path, record: Record, named: Sequence[str], *, force: bool) -> None:
    """Make sure that what lies under the names of this run's files is this run's."""
    for left in out.rglob(".*.part"):  # of a run that was killed
        left.unlink(missing_ok=True)
    if force:
        for name in (NAME, *named):
            (out / name).unlink(missing_ok=True)
    elif not (out / NAME).exists():
        there = [name for name in named if (out / name).exists()]
        if there:
            raise InputError(
                f"{out} holds {there[0]!r} already, which no run of `coda decode` of this folder left there; choose "
                "another --out, or replace with --force"
            )
    begin(out, record)


def _batches(
    tok: Tokenizer, folder: TokenFolder, numbers: Sequence[int], length: int
) -> Iterator[tuple[Sequence[int], Sequence[Row], Image]]:
    start = 0
    while start < len(numbers):
        part = numbers[start : start + tok.images_per_run]
        start += len(part)
        rows = [folder[number] for number in part]
        ids = np.stack([row["ids"][:length] for row in rows])
        yield part, rows, tok.decode(ids)
