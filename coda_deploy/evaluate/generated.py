"""Images that a generator made up: their Frechet distance to real ones, their codes, and the file that others score."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from coda_deploy.data import ImageSource, centre_batches
from coda_deploy.data.source import Skipped, bad_image
from coda_deploy.evaluate.frechet import Gaussian, frechet_distance
from coda_deploy.evaluate.target import Pixels, Target
from coda_deploy.evaluate.usage import CodeCounts, perplexity, utilization
from coda_deploy.float32 import full_float32
from coda_runtime.io.counts import count

ENOUGH = 50_000
"""Images of which a Frechet distance is usually told; of fewer it is biased upwards."""


@dataclass(frozen=True)
class ImageSet:
    """What was found of a folder of images: how many, which could not be read, and the use of the codebook."""

    images: int
    skipped: tuple[Skipped, ...]
    utilization: float
    perplexity: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures by the names that ``coda eval --json`` has."""
        return {
            "num_images": self.images,
            "num_skipped": len(self.skipped),
            "codebook_utilization": self.utilization,
            "codebook_perplexity": self.perplexity,
        }


@dataclass(frozen=True)
class Generated:
    """A generator's images beside real ones. ``gfid`` is None where Inception was not asked for."""

    generated: ImageSet
    data: ImageSet
    gfid: float | None

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figures has to know."""
        least = min(self.generated.images, self.data.images)
        few = f"gFID of {count(least, 'image')} is biased upwards: it is usually told of {ENOUGH}"
        return [few] if self.gfid is not None and least < ENOUGH else []

    def to_json(self) -> dict[str, Any]:
        """Return the figures as ``coda eval --generated --json`` prints them."""
        return {
            "gfid": self.gfid,
            "generated": self.generated.to_json(),
            "data": self.data.to_json(),
            "warnings": self.warnings,
        }


def evaluate_generated(
    target: Target,
    generated: ImageSource,
    data: ImageSource,
    *,
    inception: Callable[[Pixels], NDArray[np.float64]] | None = None,
    npz: Path | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    workers: int = 0,
    skip_bad: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Generated:
    """Measure images that a generator made beside real ones, each fitted to ``target``'s size and encoded by it.

    Args:
        target: the tokenizer or bundle, whose codes are counted.
        generated: what the generator made.
        data: real images; ``limit`` of them, evenly spread.
        inception: maps images uint8 [B, H, W, 3] to features [B, n], for gFID.
        npz: a file to write the generated images to, as `adm_writer` does.
        batch_size: images at once.
        limit: see ``data``.
        workers: processes that read images.
        skip_bad: False ends it at the first image that cannot be read.
        progress: called with the number of images that were just done.

    Raises:
        DataError: not one image of either can be read, or with ``skip_bad=False`` one cannot.
    """
    gaussians: list[Gaussian] = []
    with ExitStack() as stack:
        stack.enter_context(full_float32())
        writer = None if npz is None else stack.enter_context(adm_writer(npz))

        def measured(source: ImageSource, most: int | None, keep: Callable[[Pixels], None] | None) -> ImageSet:
            counts, images = CodeCounts(target.spec), 0
            skipped: list[Skipped] = []
            gaussian: Gaussian | None = None
            for batch in centre_batches(source, target.spec.image_size, batch_size, limit=most, workers=workers):
                if batch.skipped and not skip_bad:
                    raise bad_image(batch.skipped[0])
                skipped += batch.skipped
                images += len(batch.images)
                if len(batch.images):
                    counts.add(target.encode(batch.images))
                    if inception is not None:
                        features = inception(batch.images)
                        gaussian = gaussian or Gaussian(features.shape[1])
                        gaussian.add(features)
                    if keep is not None:
                        keep(batch.images)
                progress(len(batch.images) + len(batch.skipped))
            if gaussian is not None and gaussian.count > 1:
                gaussians.append(gaussian)
            return ImageSet(images, tuple(skipped), utilization(counts.total), perplexity(counts.total))

        made = measured(generated, None, writer)
        real = measured(data, limit, None)
    distance = frechet_distance(*gaussians) if len(gaussians) == 2 else None
    return Generated(made, real, distance)


@contextmanager
def adm_writer(path: Path) -> Iterator[Callable[[Pixels], None]]:
    """Yield what takes images uint8 [B, H, W, 3] of one size; at the end ``path`` is a .npz of them all, ``arr_0``.

    The evaluation suite of ADM (guided-diffusion) reads it. Images pass through a file: memory does not grow.
    """
    shape: list[tuple[int, ...]] = []
    with tempfile.TemporaryFile(dir=path.parent) as spool:

        def add(images: Pixels) -> None:
            spool.write(np.ascontiguousarray(images, np.uint8).tobytes())
            shape.append(images.shape)

        yield add
        _write(path, spool, (sum(part[0] for part in shape), *(shape[0][1:] if shape else (0, 0, 3))))


def _write(path: Path, pixels: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    pixels.seek(0)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as out,
    ):
        np.lib.format.write_array_header_1_0(out, header)
        shutil.copyfileobj(pixels, out, 1 << 20)
