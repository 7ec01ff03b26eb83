"""The images that are measured with: the user's, or those that the bundle carries. Never made up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ArtifactError, InputError
from ..format.bundle import Bundle
from ..format.color import STORED
from ..images import Batches, IgnoredProfiles
from ..parity import SavedReference
from .results import ImageFacts

MAX_IMAGES = 64
"""Of more images the first so many are taken."""


@dataclass(frozen=True)
class ImageSet:
    """`images`, uint8 [N,S,S,3] of the tokenizer's size, where they are from, and what their values were taken for.

    `files` are those that were read.
    """

    images: npt.NDArray[np.uint8] = field(repr=False)
    source: str
    color: str = STORED
    ignored: IgnoredProfiles = field(default_factory=IgnoredProfiles, repr=False)
    files: tuple[str, ...] = ()

    def facts(self) -> ImageFacts:
        """Return the `images` of results.json. The checksum is that of the pixels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()
        return {"count": len(self.images), "source": self.source, "sha256": digest, "color": self.color}


def take_images(bundle: Bundle, paths: Sequence[Path] = (), source: str = "", color: str = STORED) -> ImageSet:
    """Read the images at `paths`, resized by the bundle's rule, or the bundle's samples if there are none.

    Raises InputError for a bundle without samples, ImageError, MissingDependencyError without Pillow.
    """
    if paths:
        first = list(paths[:MAX_IMAGES])
        batches = Batches(first, bundle.spec.image_size, color)
        images, files = batches.take(slice(0, len(first))), tuple(str(path.absolute()) for path in first)
        return ImageSet(images, source, color, batches.ignored, files)
    try:
        return ImageSet(SavedReference.open(bundle).samples.images[:MAX_IMAGES], "samples of the bundle")
    except ArtifactError as error:
        if bundle.manifest.find("parity", format="npz"):
            raise
        raise InputError(
            f"{bundle.folder} carries no sample images, and speed is measured on real ones; name a folder of them: "
            "--images DIR"
        ) from error
