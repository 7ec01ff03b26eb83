"""A subject whose answers are known beforehand: it gives every image back, changed as a function says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coda_deploy.evaluate.target import About, Target
from coda_runtime.format.spec import Spec

SPEC = Spec("echo", 32, 8, 4, 16, (1, 2, 4), 21)
Pixels = NDArray[np.uint8]


class Echo(Target):
    """Ids are the first 21 values of an image, modulo V, so that the same image has the same ids."""

    def __init__(
        self,
        change: Callable[[Pixels], Pixels] = lambda images: images,
        continuous: Callable[[Pixels], Pixels] | None = None,
        *,
        shift: int = 0,
        spec: Spec = SPEC,
        name: str = "echo",
    ) -> None:
        self.spec, self.name = spec, name
        self.about = About(name, "bundle", "fp32", "echo", "cpu")
        self._change, self._continuous, self._shift = change, continuous, shift
        self._last: Pixels | None = None

    def encode(self, images: Pixels) -> NDArray[np.int32]:
        self._last = images
        ids = images.reshape(len(images), -1)[:, : self.spec.num_tokens].astype(np.int32) % self.spec.vocab_size
        ids[:, -1] = (ids[:, -1] + self._shift) % self.spec.vocab_size
        return ids

    def decode(self, ids: NDArray[np.int32]) -> Pixels:
        assert self._last is not None
        assert len(ids) == len(self._last)
        return self._change(self._last)

    def continuous(self, images: Pixels) -> Pixels | None:
        return None if self._continuous is None else self._continuous(images)
