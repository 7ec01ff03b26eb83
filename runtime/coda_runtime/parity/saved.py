"""The reference where there is no PyTorch: what the tokenizer left in the bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..codes.quantizer import NumpyQuantizer
from ..codes.search_tables import SearchTables
from ..errors import ArtifactError, InputError
from ..format.bundle import Bundle
from ..format.manifest import Artifact
from .samples import ParitySamples


class SavedReference:
    """A `Reference` for the images of `samples` only; `step` is searched by NumPy, for any ids.

    latent, encode and decode look up by content and raise InputError for a row that is not among the samples.
    """

    def __init__(self, samples: ParitySamples, quantizer: NumpyQuantizer) -> None:
        self.samples, self.quantizer = samples, quantizer
        self._by_image, self._by_latent = _rows(samples.images), _rows(samples.latent)
        self._by_ids = _rows(samples.ids)

    @classmethod
    def open(cls, bundle: Bundle) -> SavedReference:
        """Open the reference that a bundle carries. Raises ArtifactError for a bundle without one."""
        artifact = _the(bundle, "parity")
        return cls(
            ParitySamples.load(bundle.path(artifact), bundle.spec, bundle.read(artifact)), numpy_quantizer(bundle)
        )

    def latent(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Look up saved images, uint8 [B,H,W,3] -> their latents, float32 [B,C,h,w]."""
        return self.samples.latent[_find(self._by_image, images, "images")]

    def encode(self, latent: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Look up saved latents, float32 [B,C,h,w] -> their ids, int32 [B,L]."""
        return self.samples.ids[_find(self._by_latent, latent, "latents")]

    def decode(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        """Look up saved ids, int32 [B,L] -> their images, uint8 [B,H,W,3]."""
        return self.samples.decoded[_find(self._by_ids, ids, "ids")]

    def step(self, latent: npt.NDArray[np.float32], ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return, at each scale, the ids found in the residual that `ids`' own earlier scales leave: int32 [B,L]."""
        return self.quantizer.step(latent, ids)


def numpy_quantizer(bundle: Bundle) -> NumpyQuantizer:
    """Make the quantizer in NumPy, of the bundle's search and value tables. Raises ArtifactError if one is missing."""
    search = _the(bundle, "search")
    tables = SearchTables.load(bundle.path(search), bundle.spec, bundle.read(search))
    return NumpyQuantizer(bundle.spec, tables, bundle.load_codebook())


def _the(bundle: Bundle, part: str) -> Artifact:
    found = bundle.manifest.find(part, format="npz")
    if not found:
        raise ArtifactError(
            f"{bundle.folder} has no part {part!r} in format 'npz', which parity is measured with here; export the "
            "bundle again with coda export, or measure beside its tokenizer: coda verify BUNDLE --tokenizer DIR"
        )
    return found[0]


def _rows(array: npt.NDArray[Any]) -> dict[bytes, int]:
    return {row.tobytes(): index for index, row in enumerate(array)}


def _find(rows: dict[bytes, int], array: npt.NDArray[Any], what: str) -> list[int]:
    found = [rows.get(row.tobytes()) for row in array]
    missing = found.count(None)
    if missing:
        raise InputError(f"{missing} of {len(found)} {what} are not among the {len(rows)} saved samples")
    return [index for index in found if index is not None]
