"""Measure a bundle's artifacts, each on its own, on real images, at every batch size that it promises."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.base import LoadOptions, Session
from ..codes.metrics import psnr_per_image
from ..errors import ArtifactError, BackendError, CodaError, InputError
from ..format.bundle import Bundle
from ..format.manifest import PARTS, Artifact
from ..select import named_backend
from .measure import pixel_parity, token_parity
from .reference import Reference
from .samples import ParitySamples
from .saved import SavedReference, numpy_quantizer

BATCH = 4
"""The batch size where an artifact has no profile."""

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ParityImages:
    """Photographs, uint8 [N,H,W,3] of the tokenizer's image size, and where they are from."""

    pixels: npt.NDArray[np.uint8]
    source: str


class ParityMeter:
    """Runs artifacts beside the reference; the reference's own side is computed once."""

    def __init__(
        self, bundle: Bundle, reference: Reference, images: ParityImages, *, samples: ParitySamples | None = None
    ) -> None:
        """`samples` is what the reference made of `images`, where that is known already."""
        self._bundle, self._reference, self._images = bundle, reference, images
        self._given = samples

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> ParityMeter:
        """A meter with the reference that the bundle carries. Raises ArtifactError for a bundle without one."""
        reference = SavedReference.open(bundle)
        images = ParityImages(reference.samples.images, "samples in the bundle")
        return cls(bundle, reference, images, samples=reference.samples)

    @cached_property
    def samples(self) -> ParitySamples:
        """The images and what the reference made of them."""
        return self._given or ParitySamples.take(self._reference, self._images.pixels)

    def measure(
        self, artifact: Artifact, options: LoadOptions | None = None, batches: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return `{backend:device: numbers}`, the device as the session names it. `reason` says why it cannot run.

        The backend is the one that `options` name; without options, onnxruntime on the CPU. A graph runs at `batches`,
        or at MIN, OPT and MAX of its batch profile, or else at one size. The numbers are those of the worst size, and
        `batches` has each size's own; an image that fills a batch more than once counts by its worst copy. If one size
        cannot run, the numbers are None.

        Raises MissingDependencyError when the backend's library is not installed, ArtifactError for a graph that
        returns another shape or dtype than its part promises, InputError for a part that is no graph, ChecksumError for
        a missing file.
        """
        options = options or LoadOptions("cpu", "onnxruntime")
        if artifact.part not in PARTS:
            raise InputError(f"{artifact.file} is a {artifact.part}; parity is measured of {', '.join(PARTS)}")
        if batches is not None and (not batches or min(batches) < 1):
            raise InputError(f"batches is {list(batches)}; expected sizes from 1")
        backend = named_backend(options)
        if (missing := backend.missing()) is not None:
            raise missing
        self._bundle.path(artifact)  # a file that is not there is an error, and no reason
        try:
            session = backend.load(self._bundle, artifact, options)
        except CodaError as error:
            return {f"{backend.name}:{options.device}": self.not_run(artifact, error)}
        return self.measure_session(artifact, backend.name, session, batches)

    def measure_session(
        self, artifact: Artifact, backend: str, session: Session, batches: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """`measure` of an artifact that `backend` has loaded already; closes the session."""
        try:
            numbers = self._measure(artifact, session, batches)
        finally:
            session.close()
        return {f"{backend}:{session.device}": numbers | self._about()}

    def measure_search(self) -> dict[str, Any]:
        """The same for the bundle's search table: the tokenizer's own ids, judged by the quantizer in NumPy.

        It is what step agreement is measured with where there is no PyTorch. Raises ArtifactError without a table.
        """
        quantizer, known = numpy_quantizer(self._bundle), self.samples
        free, step = quantizer.ids(known.latent), quantizer.step(known.latent, known.ids)
        return {"numpy:cpu": token_parity(known.ids, free, step, self._bundle.spec.scales) | self._about()}

    def not_run(self, artifact: Artifact, why: CodaError) -> dict[str, Any]:
        """The numbers of an artifact that could not be run."""
        return {_headline(artifact): None, "reason": self._reason(why)} | self._about()

    def _about(self) -> dict[str, Any]:
        return {"images": len(self._images.pixels), "images_from": self._images.source}

    def _reason(self, error: CodaError) -> str:
        # The folder is a temporary one while a bundle is being made, and says nothing to whoever reads this.
        return str(error).replace(f"{self._bundle.folder}{os.sep}", "")

    def _measure(self, artifact: Artifact, session: Session, batches: Sequence[int] | None) -> dict[str, Any]:
        profile = batches or artifact.batch or session.batch
        sizes = sorted(set(profile)) if profile else [min(BATCH, len(self._images.pixels))]
        name, found = _headline(artifact), {}
        for size in sizes:
            index = _cycle(len(self._images.pixels), size)
            try:
                out = self._run(artifact, session, index, size)
            except BackendError as error:
                found[size] = {name: None, "reason": self._reason(error)}
            else:
                found[size] = self._judge(artifact, index, out)
        worst = min(found.values(), key=lambda numbers: _rank(numbers, name))
        shown = (name, "psnr_min", "reason")
        if profile is None:
            return dict(worst)
        if "reason" in worst:
            size = next(size for size, numbers in found.items() if numbers is worst)
            worst = worst | {"reason": f"at a batch of {size}: {worst['reason']}"}
        short = {str(size): {k: n[k] for k in shown if k in n} for size, n in found.items()}
        return worst | {"batches": short}

    def _run(self, artifact: Artifact, session: Session, index: Ids, size: int) -> npt.NDArray[Any]:
        known, spec = self.samples, self._bundle.spec
        side, latent = spec.image_size, spec.latent_size
        promises: dict[str, tuple[npt.NDArray[Any], Any, tuple[int, ...]]] = {
            "encoder": (known.images, np.float32, (spec.latent_channels, latent, latent)),
            "quantizer": (known.latent, np.int32, (spec.num_tokens,)),
            "decoder": (known.ids, np.uint8, (side, side, 3)),
        }
        source, dtype, shape = promises[artifact.part]
        outs = []
        for start in range(0, len(index), size):
            out = session.run(source[index[start : start + size]])
            if out.dtype != dtype or out.shape != (size, *shape):
                raise ArtifactError(
                    f"{artifact.file} returned {out.dtype} {list(out.shape)} for a batch of {size}, expected "
                    f"{np.dtype(dtype)} {[size, *shape]}; export the bundle again"
                )
            outs.append(out)
        return np.concatenate(outs)

    def _judge(self, artifact: Artifact, index: Ids, out: npt.NDArray[Any]) -> dict[str, Any]:
        known = self.samples
        if artifact.part == "decoder":
            rows = _worst_copies(index, psnr_per_image(out, known.decoded[index]))
            return dict(pixel_parity(known.images, out[rows], known.decoded))
        ids = out if artifact.part == "quantizer" else _distinct(self._quantize, out)
        vocabulary = self._bundle.spec.vocab_size
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise ArtifactError(
                f"{artifact.file} gave ids from {ids.min()} to {ids.max()}, expected 0 to {vocabulary - 1}; "
                "export the bundle again"
            )
        step = _distinct(self._reference.step, known.latent[index], ids)
        rows = _worst_copies(index, (ids == step).mean(1))
        return token_parity(ids[rows], known.ids, step[rows], self._bundle.spec.scales)

    def _quantize(self, latent: npt.NDArray[np.float32]) -> Ids:
        """The bundle's float32 quantizer on the CPU, by onnxruntime where it is installed."""
        options = LoadOptions("cpu", "onnxruntime")
        backend, graphs = named_backend(options), self._bundle.manifest.find("quantizer", format="onnx")
        missing = backend.missing()
        if missing is not None or not graphs:
            try:
                return numpy_quantizer(self._bundle).ids(latent)
            except ArtifactError:
                # Without either, an engine library is what most users lack.
                raise missing if missing is not None else self._no_quantizer() from None
        session = backend.load(self._bundle, graphs[0], options)
        try:
            return np.concatenate([session.run(latent[at : at + BATCH]) for at in range(0, len(latent), BATCH)])
        finally:
            session.close()

    def _no_quantizer(self) -> ArtifactError:
        return ArtifactError(
            f"{self._bundle.folder} has no quantizer in ONNX and no search table to take an encoder's tokens with; "
            "export the bundle again with coda export"
        )


def _headline(artifact: Artifact) -> str:
    return "psnr" if artifact.part == "decoder" else "step_agreement"


def _rank(numbers: Mapping[str, Any], name: str) -> tuple[bool, float, float]:
    """What did not run comes first, then the worst image's lowest, then the lowest; identical images come last."""
    worst, value = (np.inf if found is None else found for found in (numbers.get("psnr_min"), numbers[name]))
    return "reason" not in numbers, worst, value


def _cycle(count: int, size: int) -> Ids:
    """Which image stands in which row of a whole number of batches."""
    return (np.arange(-(-count // size) * size) % count).astype(np.int32)


def _worst_copies(index: Ids, scores: npt.NDArray[np.float64]) -> list[int]:
    """For each image, the row of its copy with the lowest score."""
    copies = (np.flatnonzero(index == image) for image in range(int(index.max()) + 1))
    return [int(rows[scores[rows].argmin()]) for rows in copies]


def _distinct(function: Callable[..., Ids], *arrays: npt.NDArray[Any]) -> Ids:
    """`function` of the distinct rows only: in a large batch most are copies, and the search is slow."""
    place: dict[bytes, int] = {}
    rows = [place.setdefault(b"".join(array[row].tobytes() for array in arrays), row) for row in range(len(arrays[0]))]
    first, inverse = np.unique(rows, return_inverse=True)
    return function(*(array[first] for array in arrays))[inverse]
