"""The run itself: every image once through a tokenizer, and the figures of what came back."""

from __future__ import annotations

from collections.abc import Callable

from coda_deploy.data import ImageSource, centre_batches
from coda_deploy.data.source import bad_image
from coda_deploy.evaluate.meter import Meter, Metrics
from coda_deploy.evaluate.result import Evaluation
from coda_deploy.evaluate.target import Target
from coda_deploy.float32 import full_float32
from coda_runtime.errors import InputError
from coda_runtime.format.color import STORED

# What ids depend on; a variant's name, and the words for the one rule of cropping, may differ.
COMPARED = ("image_size", "downsample", "latent_channels", "vocab_size", "scales")


def evaluate(
    target: Target,
    source: ImageSource,
    *,
    metrics: Metrics = Metrics(),  # noqa: B008 - frozen
    against: Target | None = None,
    data: str = "",
    batch_size: int = 8,
    limit: int | None = None,
    workers: int = 0,
    skip_bad: bool = True,
    color: str = STORED,
    show: int = 8,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Encode and decode the images of ``source`` and measure what comes back.

    Args:
        target: the tokenizer or bundle.
        source: the images, from `coda_deploy.data.open_source`; unreadable ones are skipped and counted.
        metrics: what to compute.
        against: another one, whose ids of the same images are compared.
        data: what the images are called in the result.
        batch_size: images at once.
        limit: take that many images, evenly spread over the source; all by default.
        workers: processes that read images; 0 reads them in this one.
        color: what ``source`` takes the values of images for, for the record.
        skip_bad: False ends it at the first image that cannot be read.
        show: how many of the worst and of the best reconstructions to keep.
        progress: called with the number of images that were just done or skipped.

    Raises:
        DataError: not one image can be read, or with ``skip_bad=False`` one cannot.
        InputError: ``against`` has another spec; a number does not fit.
    """
    if against is not None:
        check_same_spec(target, against)
    meter = Meter(target, against, metrics, show, color)
    batches = centre_batches(source, target.spec.image_size, batch_size, limit=limit, workers=workers)
    with full_float32():
        for batch in batches:
            if batch.skipped and not skip_bad:
                raise bad_image(batch.skipped[0])
            meter.add(batch)
            progress(len(batch.images) + len(batch.skipped))
    return meter.result(data)


def check_same_spec(target: Target, against: Target) -> None:
    """Raise ``InputError`` naming the first key in which the two differ, so that their ids cannot be compared."""
    for key in COMPARED:
        one, other = (_plain(getattr(of.spec, key)) for of in (target, against))
        if one != other:
            raise InputError(
                f"their tokens cannot be compared: {key} is {one} in {target.name} and {other} in {against.name}"
            )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
