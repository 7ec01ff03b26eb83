"""The recorded reference as a file, part "parity", format "npz": photographs and what the tokenizer made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ArtifactError
from ..format.parts import IDS, IMAGE, LATENT, TensorSpec
from ..format.spec import Spec
from ..io.atomic_files import staged_file
from ..io.npy import read_npz
from .reference import Reference

PARITY_FILE = "parity.fp32.npz"
_AT_ONCE = 4
_TENSORS = {"images": IMAGE, "latent": LATENT, "ids": IDS, "decoded": IMAGE}
"""The arrays of the file, a row each for an image."""


@dataclass(frozen=True)
class ParitySamples:
    """Photographs and what the unfolded float32 tokenizer made of them, a row each.

    `images` and `decoded` are uint8 [N,H,W,3], `latent` float32 [N,C,h,w], `ids` int32 [N,L]; `decoded` are `ids` as
    images.
    """

    images: npt.NDArray[np.uint8]
    latent: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    decoded: npt.NDArray[np.uint8]

    @classmethod
    def take(cls, reference: Reference, images: npt.NDArray[np.uint8]) -> ParitySamples:
        """Run `images`, uint8 [N,H,W,3] of the tokenizer's size, through the reference, four at a time."""
        taken = []
        for start in range(0, len(images), _AT_ONCE):
            latent = reference.latent(images[start : start + _AT_ONCE])
            ids = reference.encode(latent)
            taken.append((latent, ids, reference.decode(ids)))
        latents, ids_, decoded = zip(*taken, strict=True)
        return cls(images, np.concatenate(latents), np.concatenate(ids_), np.concatenate(decoded))

    @classmethod
    def load(cls, path: str | os.PathLike[str], spec: Spec, read: bytes | None = None) -> ParitySamples:
        """Read what `save` wrote, of the file or of its bytes where somebody has `read` them already.

        Raises ArtifactError for a file that is no such archive or does not fit `spec`.
        """
        try:
            arrays = read_npz(path, read=read)
        except ValueError as error:
            _fail(path, f"is not a readable .npz file ({error})")
        if set(arrays) != set(_TENSORS):
            _fail(path, f"holds {', '.join(sorted(arrays)) or 'nothing'}; expected {', '.join(_TENSORS)}")
        samples = cls(**arrays)
        count = samples.images.shape[0] if samples.images.ndim else 0
        for name, tensor in _TENSORS.items():
            array = arrays[name]
            if array.dtype != tensor.dtype or array.shape != tensor.shape(spec, count) or not count:
                _fail(
                    path,
                    f"has {name} {array.dtype} {list(array.shape)}; expected {tensor.dtype} [N, "
                    f"{', '.join(map(str, tensor.row(spec)))}] with one N from 1 for all",
                )
        if not np.isfinite(samples.latent).all():
            _fail(path, "has NaN or infinity in latent")
        low, high = int(samples.ids.min()), int(samples.ids.max())
        if low < 0 or high >= spec.vocab_size:
            _fail(path, f"has ids from {low} to {high}; expected 0 to {spec.vocab_size - 1}")
        return samples

    def of(self, tensor: TensorSpec) -> npt.NDArray[Any]:
        """Return what the parts that take `tensor` are measured on."""
        arrays: dict[TensorSpec, npt.NDArray[Any]] = {IMAGE: self.images, LATENT: self.latent, IDS: self.ids}
        return arrays[tensor]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed .npz file at `path`, the same bytes for the same samples. Raises OutputError."""
        # An open file: of a path, numpy would change the suffix.
        with staged_file(path) as staged, staged.open("wb") as file:
            np.savez_compressed(
                file, allow_pickle=False, images=self.images, latent=self.latent, ids=self.ids, decoded=self.decoded
            )


def _fail(path: str | os.PathLike[str], what: str) -> NoReturn:
    raise ArtifactError(f"{os.fspath(path)} {what}; export the bundle again")
