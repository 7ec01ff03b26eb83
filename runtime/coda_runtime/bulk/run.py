"""`tokenize`: a run from SRC to DST, or the rest of one that was stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from ..backends.base import AllOptions, LoadOptions
from ..errors import ImageError, InputError
from ..format.bundle import Bundle
from ..hub_source import find_bundle
from ..images import require_pillow
from ..images.variants import Variants
from ..io.remote import is_local, open_filesystem, redacted, require
from ..io.user_folders import expand_home
from ..select import choose_precision
from . import manifest
from .cluster import cluster
from .defaults import SHARD_SIZE, TIMEOUT_S
from .destination import Destination
from .pipeline import encode_shards
from .plan import NAME as PLAN
from .plan import Plan, Settings, check_same, make_plan, read_plan, tokenizer_files
from .shards import read_shard, shard_name, write_shard
from .sources import Reader, Source, SourceOptions, open_source

if TYPE_CHECKING:
    import pyarrow as pa

Report: TypeAlias = Callable[[int, int], None]
"""Called with (images done, images in all), those of earlier runs included, as the work goes on."""


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    `images` have ids, `errors` could not be read, `tokens` are the ids of all; `computed` is how many images, readable
    or not, this run worked through; `images_per_second` is taken from the first result on, without the start of Ray and
    the engines, None where there was no second one; `shards` is the number of files; `left_out` counts files of SRC
    that the plan does not know, since they were added later; `omitted` is {kind: {"count", "first"}} of what was left
    out of the plan, with the first names; `unlabelled` counts images without the label that was asked for. `color` is
    what the images' values were taken for, `profiles_ignored` counts those with a profile other than sRGB. Each image
    has `variants` rows.
    """

    out: str
    images: int
    errors: int
    tokens: int
    shards: int
    computed: int
    images_per_second: float | None
    left_out: int
    omitted: dict[str, dict[str, Any]]
    unlabelled: int
    color: str
    profiles_ignored: int
    variants: int


def tokenize(
    bundle: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    shard_size: int = SHARD_SIZE,
    label: str | None = None,
    original_size: bool = False,
    image_column: str = SourceOptions.image_column,
    key_column: str | None = None,
    strict: bool = False,
    address: str | None = None,
    chunk: int | None = None,
    image_timeout: float = TIMEOUT_S,
    report: Report | None = None,
    variants: Variants | None = None,
    **options: Unpack[AllOptions],
) -> Summary:
    """Write the ids of all images of `source` to Parquet files in the folder `out`.

    Killed at any moment and called again with the same arguments, it goes on: finished shards stay as they are.

    Args:
        bundle: a bundle's folder, which every node of the cluster sees under this path, or a Hub id.
        source: a folder of images, .tar shards or Parquet files; one file; or a pattern. A path, or a URL that fsspec
            knows. Paths inside are the keys.
        out: a local folder or a URL.
        shard_size: images in each file, those that cannot be read included; at least 1.
        label: adds the column `label`: "folder" for image files, a suffix such as "cls" for .tar, a Parquet column.
        original_size: adds the columns `width` and `height`, int32, of the upright image.
        image_column: the Parquet column with encoded images.
        key_column: the Parquet column whose values become `path`.
        strict: raise at the first image that cannot be read. Finished shards stay.
        address: an existing Ray cluster, "host:port" or "auto"; None starts Ray on this machine.
        chunk: images that go through the pipeline together; None chooses by their size.
        image_timeout: seconds in which an image must be decoded; one that takes longer is tried three times, and then
            is one that cannot be read, like one that ends the process that decodes it.
        report: is told of the progress.
        variants: what is made of each image, in rows with the columns `variant`, `box` and `flip`; None makes one row
            of its middle, without these.
        **options: how each encoder loads the bundle, as for `coda_runtime.load`: device ("auto", "cpu" or "cuda"),
            backend, precision and color (which are part of what is computed), and the other fields of `LoadOptions`.

    Raises:
        InputError: there are no images, or `out` holds a run with other settings, or another run is writing to it.
        ImageError: with `strict`, names the image.
        OutputError: `out` cannot be written, or something in it is damaged.
        BundleError, BackendError, DeviceError, HubError, MissingDependencyError: as `coda_runtime.load`; BackendError
            for Ray too.
    """
    require("ray", "pyarrow", "fsspec")
    require_pillow()
    if not isinstance(shard_size, int) or isinstance(shard_size, bool) or shard_size < 1:
        raise InputError(f"shard_size is {shard_size!r}; expected a whole number from 1")
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk is {chunk!r}; expected a whole number from 1, or None")
    if not 0 < image_timeout <= 86_400:
        raise InputError(f"image_timeout is {image_timeout!r}; expected seconds, over 0 and up to 86400")
    load_options = LoadOptions(**options)
    opened = Bundle.open(find_bundle(bundle))
    opened.verify(load_options.verify)
    load_options = _for_encoders(opened, load_options)
    source_options = SourceOptions(label, image_column, key_column)
    settings = replace(
        _settings(opened, os.fspath(source), load_options, shard_size, source_options, original_size),
        variants=None if variants is None else variants.to_json(),
    )
    if variants is not None:
        variants.check(opened.spec.image_size)
    everywhere = str(opened.folder.absolute()) if expand_home(bundle).exists() else os.fspath(bundle)
    destination = Destination(os.fspath(out))
    if destination.holds(settings.source):
        raise InputError(f"{destination.url} holds the images; choose another --out, beside or inside {source}")
    with destination.held():
        images = open_source(os.fspath(source), source_options, leave_out=str(destination.path))
        plan = _start(destination, settings, images)
        run = _Run(destination, plan, strict, report)
        if run.missing:
            run.complete(images.reader(plan.files), everywhere, load_options, address, chunk, image_timeout)
        return run.finish(opened, plan.left_out(images.files()))


class _Run:
    """The shards of a plan: which are there, which are missing."""

    def __init__(self, destination: Destination, plan: Plan, strict: bool, report: Report | None) -> None:
        self._destination, self._plan, self._strict = destination, plan, strict
        self._report = report or (lambda done, total: None)
        there = set(destination.names())
        self.finished = {
            number: read_shard(destination, plan, number)
            for number in range(plan.shards)
            if shard_name(number) in there
        }
        self.missing = [number for number in range(plan.shards) if number not in self.finished]
        if strict:
            self._reject_errors()
        self._clock = _Clock()

    def complete(
        self,
        reader: Reader,
        bundle: str,
        options: LoadOptions,
        address: str | None,
        chunk: int | None,
        image_timeout: float,
    ) -> None:
        """Compute the missing shards with the bundle; write each as soon as all of its images are there."""
        total = self._plan.images
        parts: dict[int, dict[int, pa.Table]] = {number: {} for number in self.missing}
        waiting = {number: self._plan.shard_images(number) for number in self.missing}
        before = total - sum(waiting.values())
        self._report(before, total)
        if manifest.NAME in self._destination.names():  # a finished shard was taken away since
            self._destination.remove(manifest.NAME)
        with cluster(address) as ray:
            for table in encode_shards(ray, self._plan, self.missing, reader, bundle, options, chunk, image_timeout):
                start = table.column("position")[0].as_py()
                number = start // self._plan.settings.shard_size
                if number in self.finished or start in parts[number]:  # computed twice, since something died
                    continue
                if self._strict:
                    self._reject(table)
                parts[number][start] = _own(table)
                images = len(set(table.column("position").to_pylist()))
                waiting[number] -= images
                self._clock.count(images)
                if waiting[number] == 0:
                    self._finish_shard(number, list(parts.pop(number).values()))
                self._report(before + self._clock.images, total)

    def _finish_shard(self, number: int, results: list[pa.Table]) -> None:
        self.finished[number] = write_shard(self._destination, self._plan, number, results)
        if self.finished[number].errors:
            self._write_errors()

    def finish(self, bundle: Bundle, left_out: int) -> Summary:
        """Write what tells of the whole run."""
        shards = [self.finished[number] for number in range(self._plan.shards)]
        if self.missing or manifest.NAME not in self._destination.names():
            self._write_errors()
            self._destination.write(manifest.NAME, manifest.format_manifest(self._plan, bundle, shards))
        images = sum(shard.images for shard in shards)
        return Summary(
            out=self._destination.url,
            images=images,
            errors=sum(len(shard.errors) for shard in shards),
            tokens=images * self._plan.variants.count * int(self._plan.settings.spec["num_tokens"]),
            shards=len(shards),
            computed=self._clock.images,
            images_per_second=self._clock.rate,
            left_out=left_out,
            omitted=self._plan.omitted.to_json(),
            unlabelled=self._plan.unlabelled,
            color=self._plan.settings.color,
            profiles_ignored=sum(shard.profiles_ignored for shard in shards),
            variants=self._plan.variants.count,
        )

    def _write_errors(self) -> None:
        errors = [error for _, shard in sorted(self.finished.items()) for error in shard.errors]
        self._destination.write(manifest.ERRORS_NAME, "".join(json.dumps(error) + "\n" for error in errors).encode())

    def _reject(self, table: pa.Table) -> None:
        errors = table.column("error").drop_null()
        if len(errors):
            raise ImageError(
                f"{errors[0].as_py()} (without --strict it is skipped, and listed in {manifest.ERRORS_NAME})"
            )

    def _reject_errors(self) -> None:
        for shard in self.finished.values():
            if shard.errors:
                raise ImageError(f"{shard.errors[0]['error']} (in {shard.file}, which is finished)")


class _Clock:
    """Images counted, and their rate from the first ones on: these are late for the start of Ray and the engines."""

    def __init__(self) -> None:
        self.images = 0
        self.rate: float | None = None
        self._first = 0
        self._began = 0.0

    def count(self, images: int) -> None:
        self.images += images
        if not self._first:
            self._first, self._began = self.images, time.perf_counter()
        else:
            self.rate = (self.images - self._first) / (time.perf_counter() - self._began)


def _own(table: pa.Table) -> pa.Table:
    """Return a copy in this process's memory: what waits for the rest of its shard must not fill the memory of Ray."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def _for_encoders(bundle: Bundle, options: LoadOptions) -> LoadOptions:
    """Return the options with their precision by name. Raises InputError for one that is not there, for "cuda:N"."""
    if options.device.startswith("cuda:"):
        raise InputError(
            f'device is {options.device!r}, and Ray gives each encoder a GPU of its own; ask for "cuda", and choose '
            "GPUs with CUDA_VISIBLE_DEVICES"
        )
    return replace(options, precision=choose_precision(bundle.manifest, options.precision))


def _settings(
    bundle: Bundle, source: str, loading: LoadOptions, shard_size: int, options: SourceOptions, original_size: bool
) -> Settings:
    fs, path = open_filesystem(source)
    return Settings(
        source=path if is_local(fs) else redacted(source),
        shard_size=shard_size,
        precision=loading.precision,
        reproducible=loading.reproducible,
        tokenizer=tokenizer_files(bundle, loading.precision),
        spec=bundle.spec.to_json(),
        label=options.label,
        original_size=original_size,
        image_column=options.image_column,
        key_column=options.key_column,
        color=loading.color,
    )


def _start(destination: Destination, settings: Settings, source: Source) -> Plan:
    """Return the plan of the run that was begun in the destination, or a new one."""
    names = destination.names()
    if PLAN in names:
        plan = read_plan(destination.read(PLAN), f"{destination.url}/{PLAN}")
        check_same(plan, settings, destination.url)
        return plan
    strangers = [name for name in names if name.endswith(".parquet") or name == manifest.NAME]
    if strangers:
        raise InputError(f"{destination.url} holds {strangers[0]} and no {PLAN}; choose another --out, or empty it")
    images = source.listing()
    if images.num_rows == 0:
        raise InputError(f"{settings.source} holds no images; check what is in its files")
    plan, data = make_plan(settings, images, source.files(), source.omitted)
    destination.write(PLAN, data)
    return plan
