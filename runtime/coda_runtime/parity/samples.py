"""The bundle's yardstick as a file, part "parity", format "npz": photographs and what the tokenizer made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ArtifactError
from ..format.manifest import Spec
from ..io.atomic_files import staged_file
from ..io.npy import read_npz
from .reference import Reference

PARITY_FILE = "parity.fp32.npz"
_AT_ONCE = 4


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
    def load(cls, path: str | os.PathLike[str], spec: Spec) -> ParitySamples:
        """Read what `save` wrote. Raises ArtifactError for a file that is no such archive or does not fit `spec`."""
        try:
            arrays = read_npz(path)
        except ValueError as error:
            _fail(path, f"is not a readable .npz file ({error})")
        side, latent = spec.image_size, spec.latent_size
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "images": (np.uint8, (side, side, 3)),
            "latent": (np.float32, (spec.latent_channels, latent, latent)),
            "ids": (np.int32, (spec.num_tokens,)),
            "decoded": (np.uint8, (side, side, 3)),
        }
        if set(arrays) != set(expected):
            _fail(path, f"holds {', '.join(sorted(arrays)) or 'nothing'}; expected {', '.join(expected)}")
        count = arrays["images"].shape[0] if arrays["images"].ndim else 0
        for name, (dtype, shape) in expected.items():
            array = arrays[name]
            if array.dtype != dtype or array.shape != (count, *shape) or not count:
                _fail(
                    path,
                    f"has {name} {array.dtype} {list(array.shape)}; expected {np.dtype(dtype)} [N, "
                    f"{', '.join(map(str, shape))}] with one N from 1 for all",
                )
        if not np.isfinite(arrays["latent"]).all():
            _fail(path, "has NaN or infinity in latent")
        low, high = int(arrays["ids"].min()), int(arrays["ids"].max())
        if low < 0 or high >= spec.vocab_size:
            _fail(path, f"has ids from {low} to {high}; expected 0 to {spec.vocab_size - 1}")
        return cls(**arrays)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed .npz file at `path`, the same bytes for the same samples. Raises OutputError."""
        # An open file: of a path, numpy would change the suffix.
        with staged_file(path) as staged, staged.open("wb") as file:
            np.savez_compressed(
                file, allow_pickle=False, images=self.images, latent=self.latent, ids=self.ids, decoded=self.decoded
            )


def _fail(path: str | os.PathLike[str], what: str) -> NoReturn:
    raise ArtifactError(f"{os.fspath(path)} {what}; export the bundle again")
