"""Measure a bundle's artifacts, each on its own, on real images, at every batch size that it promises."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.base import LoadOptions, Session, profiles_of
from ..codes.metrics import psnr_per_image
from ..errors import ArtifactError, BackendError, CodaError, InputError
from ..format.bundle import Bundle
from ..format.manifest import Artifact
from ..format.parity import Measured, NotMeasured, ParityRecord, headline
from ..format.parts import DECODER, ENCODE, ENCODER, GRAPHS, IDS, IMAGE, QUANTIZER
from ..format.precision import precision_of
from ..select import candidates, named_backend
from .measure import pixel_parity, psnr_loss, token_parity
from .reference import Reference
from .samples import ParitySamples
from .saved import SavedReference, numpy_quantizer

BATCH = 4
"""The batch size where an artifact has no profile."""

Ids = npt.NDArray[np.int32]
_Decode = Callable[[Ids], "npt.NDArray[np.uint8] | None"]
_OF_EACH_SIZE = ("psnr_min", "psnr_drop", "psnr_drop_error", "psnr_drop_max")
"""What is told of each batch size beside the headline, where it was measured."""


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
        """Measure against `reference`; `samples` is what it made of `images`, where that is known already."""
        self._bundle, self._reference, self._images = bundle, reference, images
        self._given = samples
        self._encoded: dict[tuple[str, str, str, str], Ids] = {}  # what gave them: see _key

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> ParityMeter:
        """Make a meter with the reference that the bundle carries. Raises ArtifactError for a bundle without one."""
        reference = SavedReference.open(bundle)
        images = ParityImages(reference.samples.images, "samples in the bundle")
        return cls(bundle, reference, images, samples=reference.samples)

    @property
    def bundle(self) -> Bundle:
        """The bundle whose artifacts are measured."""
        return self._bundle

    @cached_property
    def samples(self) -> ParitySamples:
        """The images and what the reference made of them."""
        return self._given or ParitySamples.take(self._reference, self._images.pixels)

    def measure(
        self, artifact: Artifact, options: LoadOptions | None = None, batches: Sequence[int] | None = None
    ) -> dict[str, ParityRecord]:
        """Return `{backend:device: record}`, the device as the session names it.

        The backend is the one that `options` name; without options, onnxruntime on the CPU, and for a precision that
        its CPU provider lacks what else has it here. A graph runs at `batches`,
        or at MIN, OPT and MAX of its batch profiles, or else at one size. The numbers are those of the worst size, and
        `batches` has each size's own; an image that fills a batch more than once counts by its worst copy. If one size
        cannot run, it was not measured.

        Raises MissingDependencyError when the backend's library is not installed, ArtifactError for a graph that
        returns another shape or dtype than its part promises, InputError for a part that is no graph, ChecksumError for
        a missing file.
        """
        options = options or LoadOptions("cpu", self._on_the_cpu(artifact))
        if artifact.part not in GRAPHS:
            raise InputError(f"{artifact.file} is a {artifact.part}; parity is measured of {', '.join(GRAPHS)}")
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
        return self.measure_session(artifact, backend.name, session, batches, options=options)

    def _on_the_cpu(self, artifact: Artifact) -> str:
        """Return the backend that measures an artifact unless another one is named."""
        if precision_of(artifact.precision).onnxruntime_cpu:
            return "onnxruntime"
        able = (found for found in candidates(self._bundle, [artifact], LoadOptions("cpu")) if found.reason is None)
        return next((found.backend.name for found in able), "onnxruntime")

    def measure_session(
        self,
        artifact: Artifact,
        backend: str,
        session: Session,
        batches: Sequence[int] | None = None,
        *,
        options: LoadOptions | None = None,
    ) -> dict[str, ParityRecord]:
        """Return what `measure` does, of an artifact that `backend` has loaded already; closes the session.

        The loss of a whole reconstruction, `psnr_loss`, is measured of a decoder whose precision is judged by it: with
        the ids of the encoder beside it, as `backend` gave them, or gives them now with `options`. So is that of an
        encode graph, through the decoder beside it.
        """
        try:
            encoded = self._ids_beside(artifact, backend, options)
            decode = self._decoder_beside(artifact, options)
            record = self._measure(artifact, session, batches, backend, encoded, decode)
        finally:
            session.close()
        return {f"{backend}:{session.device}": self._told(record)}

    def measure_search(self) -> dict[str, ParityRecord]:
        """Return the same for the bundle's search table: the tokenizer's own ids, judged by the quantizer in NumPy.

        It is what step agreement is measured with where there is no PyTorch. Raises ArtifactError without a table.
        """
        quantizer, known = numpy_quantizer(self._bundle), self.samples
        free, step = quantizer.ids(known.latent), quantizer.step(known.latent, known.ids)
        return {"numpy:cpu": self._told(Measured(token_parity(known.ids, free, step, self._bundle.spec.scales)))}

    def not_run(self, artifact: Artifact, why: CodaError) -> ParityRecord:
        """Return the record of an artifact that could not be run."""
        return self._told(NotMeasured(self._reason(why), headline(artifact.part)))

    def _told(self, record: ParityRecord) -> ParityRecord:
        """Return the record with what it was measured on."""
        return dataclasses.replace(record, images=len(self._images.pixels), images_from=self._images.source)

    def _reason(self, error: CodaError) -> str:
        # The folder is a temporary one while a bundle is being made, and says nothing to whoever reads this.
        return str(error).replace(f"{self._bundle.folder}{os.sep}", "")

    def _ids_beside(self, artifact: Artifact, backend: str, options: LoadOptions | None) -> Ids | None:
        """Return what the encoder of a decoder's own precision and format makes of the images, int32 [N,L].

        None for another part, for a precision that is not judged by it, and where that encoder does not run.
        """
        if artifact.part != DECODER.name or not _is_judged_by_loss(artifact):
            return None
        found = self._bundle.manifest.find(ENCODER.name, precision=artifact.precision, format=artifact.format)
        key = _key(dataclasses.replace(artifact, part=ENCODER.name), backend)
        if key not in self._encoded and options is not None and found:
            try:
                session = named_backend(options).load(self._bundle, found[0], options)
            except CodaError:
                return None
            self.measure_session(found[0], backend, session)
        return self._encoded.get(key)

    def _decoder_beside(self, artifact: Artifact, options: LoadOptions | None) -> _Decode | None:
        """Return what decodes the ids of an encode graph, int32 [N,L], by the decoder of its own precision and format.

        None for another part, for a precision that is not judged by it, and where that decoder does not run.
        """
        found = self._bundle.manifest.find(DECODER.name, precision=artifact.precision, format=artifact.format)
        if artifact.part != ENCODE.name or not _is_judged_by_loss(artifact) or options is None or not found:
            return None
        decoder = found[0]

        def decode(ids: Ids) -> npt.NDArray[np.uint8] | None:
            try:
                session = named_backend(options).load(self._bundle, decoder, options)
            except CodaError:
                return None
            try:
                index = _cycle(len(ids), BATCH)
                return self._run(decoder, session, ids[index], BATCH)[: len(ids)]
            finally:
                session.close()

        return decode

    def _measure(
        self,
        artifact: Artifact,
        session: Session,
        batches: Sequence[int] | None,
        backend: str,
        encoded: Ids | None,
        decode: _Decode | None,
    ) -> ParityRecord:
        profiles = artifact.profiles or profiles_of(session)
        asked = batches or [size for profile in profiles for size in profile]
        sizes = sorted(set(asked)) or [min(BATCH, len(self._images.pixels))]
        name, found = headline(artifact.part), dict[int, ParityRecord]()
        for size in sizes:
            index = _cycle(len(self._images.pixels), size)
            try:
                out = self._run(artifact, session, self.samples.of(GRAPHS[artifact.part].input)[index], size)
                rebuilt = None if encoded is None else self._run(artifact, session, encoded[index], size)
            except BackendError as error:
                found[size] = NotMeasured(self._reason(error), name)
                continue
            numbers = self._judge(artifact, index, out, backend)
            if decode is not None and (images := decode(self._encoded[_key(artifact, backend)])) is not None:
                numbers |= psnr_loss(self.samples.images, images, self.samples.decoded)
            if rebuilt is not None:
                known = self.samples
                rows = _worst_copies(index, psnr_per_image(rebuilt, known.images[index]))
                numbers |= psnr_loss(known.images, rebuilt[rows], known.decoded)
            found[size] = Measured(numbers)
        size, worst = min(found.items(), key=lambda item: _rank(item[1], name))
        if not asked:
            return worst
        if isinstance(worst, NotMeasured):
            worst = dataclasses.replace(worst, reason=f"at a batch of {size}: {worst.reason}")
        return dataclasses.replace(worst, batches={str(size): _short(of, name) for size, of in found.items()})

    def _run(self, artifact: Artifact, session: Session, rows: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
        expected, outs = GRAPHS[artifact.part].output, []
        shape = expected.shape(self._bundle.spec, size)
        for start in range(0, len(rows), size):
            out = session.run(rows[start : start + size])
            if out.dtype != expected.dtype or out.shape != shape:
                raise ArtifactError(
                    f"{artifact.file} returned {out.dtype} {list(out.shape)} for a batch of {size}, expected "
                    f"{expected.dtype} {list(shape)}; export the bundle again"
                )
            outs.append(out)
        return np.concatenate(outs)

    def _judge(self, artifact: Artifact, index: Ids, out: npt.NDArray[Any], backend: str) -> dict[str, Any]:
        known = self.samples
        if GRAPHS[artifact.part].output is IMAGE:
            rows = _worst_copies(index, psnr_per_image(out, known.decoded[index]))
            return dict(pixel_parity(known.images, out[rows], known.decoded))
        ids = out if GRAPHS[artifact.part].output is IDS else _distinct(self._quantize, out)
        vocabulary = self._bundle.spec.vocab_size
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise ArtifactError(
                f"{artifact.file} gave ids from {ids.min()} to {ids.max()}, expected 0 to {vocabulary - 1}; "
                "export the bundle again"
            )
        step = _distinct(self._reference.step, known.latent[index], ids)
        rows = _worst_copies(index, (ids == step).mean(1))
        if artifact.part in (ENCODER.name, ENCODE.name):
            self._encoded[_key(artifact, backend)] = ids[rows]
        return token_parity(ids[rows], known.ids, step[rows], self._bundle.spec.scales)

    def _quantize(self, latent: npt.NDArray[np.float32]) -> Ids:
        """Run the bundle's float32 quantizer on the CPU, with onnxruntime if it is installed."""
        options = LoadOptions("cpu", "onnxruntime")
        backend, graphs = named_backend(options), self._bundle.manifest.find(QUANTIZER.name, format="onnx")
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


def _key(artifact: Artifact, backend: str) -> tuple[str, str, str, str]:
    """Name what gives ids: a graph's part, precision and format, and the backend that runs it."""
    return artifact.part, artifact.precision, artifact.format, backend


def _is_judged_by_loss(artifact: Artifact) -> bool:
    """Return whether an artifact's precision is held to what an image loses there and back."""
    threshold = precision_of(artifact.precision).threshold
    return threshold is not None and threshold.max_psnr_drop is not None


def _rank(record: ParityRecord, name: str) -> tuple[bool, float, float]:
    """Rank what did not run first, then the worst image's lowest, then the lowest; identical images come last."""
    if isinstance(record, NotMeasured):
        return False, np.inf, np.inf
    worst, value = (np.inf if found is None else found for found in (record.psnr_min, record.numbers[name]))
    return True, worst, value


def _short(record: ParityRecord, name: str) -> ParityRecord:
    """Return what is said of each batch size."""
    if isinstance(record, NotMeasured):
        return record
    return Measured({shown: record.numbers[shown] for shown in (name, *_OF_EACH_SIZE) if shown in record.numbers})


def _cycle(count: int, size: int) -> Ids:
    """Return which image is in which row of a whole number of batches."""
    return (np.arange(-(-count // size) * size) % count).astype(np.int32)


def _worst_copies(index: Ids, scores: npt.NDArray[np.float64]) -> list[int]:
    """Return, for each image, the row of its copy with the lowest score."""
    copies = (np.flatnonzero(index == image) for image in range(int(index.max()) + 1))
    return [int(rows[scores[rows].argmin()]) for rows in copies]


def _distinct(function: Callable[..., Ids], *arrays: npt.NDArray[Any]) -> Ids:
    """Apply `function` to the distinct rows only: in a large batch most are copies, and the search is slow."""
    first_rows: dict[bytes, int] = {}
    rows = [
        first_rows.setdefault(b"".join(array[row].tobytes() for array in arrays), row) for row in range(len(arrays[0]))
    ]
    first, inverse = np.unique(rows, return_inverse=True)
    return function(*(array[first] for array in arrays))[inverse]
