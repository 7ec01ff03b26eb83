"""Measure a bundle's artifacts, each on its own, on real images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_export.parity.measure import pixel_parity, token_parity
from coda_export.parity.reference import Reference
from coda_runtime.backends.base import LoadOptions, Session
from coda_runtime.backends.registry import get_backend
from coda_runtime.bundle import Bundle
from coda_runtime.errors import CodaError, MissingDependencyError
from coda_runtime.manifest import Artifact

BATCH = 4


@dataclass(frozen=True)
class ParityImages:
    """Photographs, uint8 [N, H, W, 3] of the tokenizer's image size, and where they are from."""

    pixels: NDArray[np.uint8]
    source: str


class ParityMeter:
    """Runs artifacts beside the reference; the reference's own side is computed once."""

    def __init__(self, bundle: Bundle, reference: Reference, images: ParityImages) -> None:
        self._bundle, self._reference, self._images = bundle, reference, images

    @cached_property
    def _latent(self) -> NDArray[np.float32]:
        return _batched(self._reference.latent, self._images.pixels)

    @cached_property
    def _ids(self) -> NDArray[np.int32]:
        return _batched(self._reference.encode, self._latent)

    @cached_property
    def _decoded(self) -> NDArray[np.uint8]:
        return _batched(self._reference.decode, self._ids)

    def measure(self, artifact: Artifact, backend: str = "onnxruntime", device: str = "cpu") -> dict[str, Any]:
        """``{backend:device: numbers}``. Where it cannot run, the numbers are None and ``reason`` says why.

        Raises ``MissingDependencyError`` when the engine library is not installed: that is for the user to mend.
        """
        about = {"images": len(self._images.pixels), "images_from": self._images.source}
        try:
            numbers = self._numbers(artifact, backend, device)
        except MissingDependencyError:
            raise
        except CodaError as error:
            numbers = {"step_agreement": None} if artifact.part != "decoder" else {"psnr": None}
            # The folder is a temporary one while a bundle is being made, and says nothing to whoever reads this.
            numbers["reason"] = str(error).replace(f"{self._bundle.folder}{os.sep}", "")
        return {f"{backend}:{device}": numbers | about}

    def _numbers(self, artifact: Artifact, backend: str, device: str) -> dict[str, Any]:
        with _session(self._bundle, artifact, backend, device) as run:
            if artifact.part == "decoder":
                return dict(pixel_parity(self._images.pixels, _batched(run, self._ids), self._decoded))
            if artifact.part == "quantizer":
                ids = _batched(run, self._latent)
            else:
                latent = _batched(run, self._images.pixels)
                quantizer = self._bundle.manifest.find("quantizer", format="onnx")[0]
                with _session(self._bundle, quantizer, "onnxruntime", "cpu") as quantize:
                    ids = _batched(quantize, latent)
        step = self._reference.step(self._latent, ids)
        return token_parity(ids, self._ids, step, self._bundle.spec.scales)


class _session:  # noqa: N801 - a context manager used as a function
    def __init__(self, bundle: Bundle, artifact: Artifact, backend: str, device: str) -> None:
        engine = get_backend(backend)
        if (missing := engine.unavailable()) is not None:
            raise missing
        self._session: Session = engine.load(bundle.path(artifact), artifact, LoadOptions(device=device))

    def __enter__(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        return self._session.run

    def __exit__(self, *_: object) -> None:
        self._session.close()


def _batches(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (array[start : start + BATCH] for start in range(0, len(array), BATCH))


def _batched(run: Callable[[NDArray[Any]], NDArray[Any]], array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([run(batch) for batch in _batches(array)])
