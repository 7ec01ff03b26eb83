"""The tokenizer of a bundle: images to ids and back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .backends.base import Backend, LoadOptions, Provider, Session
from .backends.registry import get_backend, names
from .bundle import Bundle
from .checksums import Verify
from .errors import ArtifactError, BackendError, BundleError, ClosedError, InputError, MissingDependencyError
from .hub import find_bundle
from .images import Batches, Images
from .manifest import PARTS, Artifact, Spec
from .resample import upsample_matrix
from .tokens import check_ids, pad_ids, split_ids

MAX_PIXELS_PER_RUN = 4 * 256 * 256
"""Larger batches run in pieces of at most this many pixels, so that their size costs no memory."""


@dataclass(frozen=True)
class LoadedArtifact:
    """What one part of a tokenizer runs on."""

    part: str
    format: str
    precision: str
    backend: str
    device: str
    file: str


class Tokenizer:
    """A loaded bundle. Made by `coda_runtime.load`; a context manager; safe to call from many threads.

    `spec` says what it computes, `artifacts` what was loaded for it, `folder` where from, `fingerprints` which
    tokenizer ids belong to, and `images_per_run` how many images go through the engines at once.
    """

    def __init__(self, bundle: Bundle, sessions: dict[str, Session], artifacts: Sequence[LoadedArtifact]) -> None:
        self.spec: Spec = bundle.spec
        self.artifacts: tuple[LoadedArtifact, ...] = tuple(artifacts)
        self.folder = bundle.folder
        self.fingerprints = bundle.fingerprints
        self._bundle = bundle
        self._sessions = sessions
        self._codebook = bundle.load_codebook() if bundle.codebook else None
        self.images_per_run = max(1, MAX_PIXELS_PER_RUN // self.spec.image_size**2)
        self._state = threading.Condition()
        self._running = 0
        self._closed = False

    def encode(self, images: Images) -> npt.NDArray[np.int32]:
        """Images to ids.

        Args:
            images: uint8 [B,H,W,3] in RGB, or a list of paths, PIL images or uint8 [H,W,3] arrays of any sizes. What
                is not image_size square is resized by its shorter side with Lanczos and cropped at the centre.

        Returns:
            Ids, int32 [B,L], each in [0, V), coarse to fine and row-major inside a scale.

        Raises:
            ImageError: unreadable files, wrong dtype or shape, an empty batch.
            MissingDependencyError: Pillow is needed and not installed.
            ArtifactError: the graph gives ids that the manifest does not know.
            ClosedError: the tokenizer is closed.
        """
        batches = Batches(images, self.spec.image_size)
        out = np.empty((len(batches), self.spec.num_tokens), dtype=np.int32)
        for where, pixels in batches.slices(self.images_per_run):
            with self._open() as sessions:
                latent = self._run(sessions, "encoder", pixels)
                out[where] = self._run(sessions, "quantizer", latent)
        if int(out.min()) < 0 or int(out.max()) >= self.spec.vocab_size:
            raise ArtifactError(
                f"the quantizer gave ids from {out.min()} to {out.max()}, and the manifest says vocab_size "
                f"{self.spec.vocab_size}; export the bundle again"
            )
        return out

    def decode(self, ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
        """Ids to images.

        Args:
            ids: int32 [B,n], each in [0, V); n is a whole number of scales, L for the whole picture. Other integer
                dtypes are taken too.

        Returns:
            Images, uint8 [B,H,W,3] in RGB, image_size square.

        Raises:
            TokenError: wrong dtype or shape, an id out of range, an empty batch.
            ClosedError: the tokenizer is closed.
        """
        full = pad_ids(check_ids(ids, self.spec), self.spec)
        if len(full) <= self.images_per_run:
            with self._open() as sessions:
                return self._run(sessions, "decoder", full)
        side = self.spec.image_size
        out = np.empty((len(full), side, side, 3), dtype=np.uint8)
        for start in range(0, len(full), self.images_per_run):
            where = slice(start, start + self.images_per_run)
            with self._open() as sessions:
                out[where] = self._run(sessions, "decoder", full[where])
        return out

    def reconstruct(self, images: Images) -> npt.NDArray[np.uint8]:
        """`decode(encode(images))`: uint8 [B,H,W,3]. Takes and raises what `encode` does."""
        return self.decode(self.encode(images))

    def split(self, ids: npt.NDArray[np.integer[Any]]) -> list[npt.NDArray[np.int32]]:
        """Ids int32 [B,n] as one int32 [B,s,s] a scale, coarse to fine. Raises TokenError as `decode` does."""
        return split_ids(check_ids(ids, self.spec), self.spec)

    def embed(self, ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Ids to the quantised latent, float32 [B,C,h,w]: the values of every scale, bicubic-upsampled and summed.

        Takes ids as `decode` does. Raises TokenError, ArtifactError for a bundle without a value table, ClosedError.
        """
        checked = check_ids(ids, self.spec)
        table = self.codebook
        side = self.spec.latent_size
        out = np.zeros((len(checked), self.spec.latent_channels, side, side), dtype=np.float32)
        for scale in split_ids(checked, self.spec):
            values = table[scale].transpose(0, 3, 1, 2)
            up = upsample_matrix(side, scale.shape[1])
            out += up @ values @ up.T
        return out

    @property
    def codebook(self) -> npt.NDArray[np.float32]:
        """The value of every code, float32 [V,C], read-only. Raises ArtifactError for a bundle without one."""
        if self._closed:
            raise self._closed_error()
        return self._bundle.load_codebook() if self._codebook is None else self._codebook

    def close(self) -> None:
        """Free the engines, after the runs that are under way; later calls raise ClosedError. May be called twice."""
        with self._state:
            self._closed = True
            while self._running:
                self._state.wait()
            sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.close()

    def __enter__(self) -> Tokenizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        spec = self.spec
        parts = "closed" if self._closed else ", ".join(f"{a.part} {a.precision} {a.device}" for a in self.artifacts)
        return (
            f"<coda_runtime.Tokenizer {spec.variant}: {spec.image_size} px, {spec.num_tokens} tokens of "
            f"{spec.vocab_size}; {parts}>"
        )

    @contextmanager
    def _open(self) -> Iterator[dict[str, Session]]:
        """The sessions, kept from closing for as long as one run takes."""
        with self._state:
            if self._closed:
                raise self._closed_error()
            self._running += 1
        try:
            yield self._sessions
        finally:
            with self._state:
                self._running -= 1
                self._state.notify_all()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"the tokenizer of {self.folder} is closed; load the bundle again with coda_runtime.load")

    def _run(self, sessions: dict[str, Session], part: str, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        spec, count = self.spec, len(batch)
        out = sessions[part].run(batch)
        side = spec.image_size if part == "decoder" else spec.latent_size
        shape, dtype = {
            "encoder": ((count, spec.latent_channels, side, side), np.float32),
            "quantizer": ((count, spec.num_tokens), np.int32),
            "decoder": ((count, side, side, 3), np.uint8),
        }[part]
        if out.shape != shape or out.dtype != dtype:
            raise ArtifactError(
                f"the {part} of {self.folder} returned {out.dtype} {list(out.shape)}, expected "
                f"{np.dtype(dtype)} {list(shape)}; export the bundle again"
            )
        return out


def load(
    path_or_hub_id: str | os.PathLike[str],
    device: str = "auto",
    backend: str | Backend = "auto",
    precision: str = "auto",
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    *,
    verify: Verify = "cached",
) -> Tokenizer:
    """Load a bundle.

    Args:
        path_or_hub_id: the bundle's folder, or the Hugging Face Hub id of one, "org/name".
        device: "cpu", "cuda", "cuda:N", or "auto": a GPU if the engine library and the driver have one.
        backend: a backend's name, a `Backend` of your own, or "auto": the fastest that may load what the bundle has.
        precision: "fp32", "fp16", "bf16", or "auto": the manifest's default on every machine, so that ids do not
            depend on where they were made. The quantizer is always fp32.
        providers: onnxruntime's execution providers, passed through, instead of what `device` stands for.
        threads: CPU threads for one run, from 1; None leaves it to the engine library.
        verify: "cached" hashes files that changed since they were last checked, "always" hashes them all.

    Raises:
        BundleError: the bundle is missing, broken, altered, or made by a newer coda.
        InputError: an argument is wrong, or the bundle lacks the precision.
        DeviceError, BackendError, MissingDependencyError, HubError: what was asked for is not there.
    """
    options = LoadOptions(device, providers, threads)
    bundle = Bundle.open(find_bundle(path_or_hub_id))
    bundle.verify(verify)
    if precision == "auto":
        precision = bundle.manifest.default_precision
    elif precision not in bundle.manifest.precisions:
        raise InputError(
            f'precision is {precision!r}; this bundle has "auto", {", ".join(map(repr, bundle.manifest.precisions))}'
        )
    sessions: dict[str, Session] = {}
    loaded: list[LoadedArtifact] = []
    try:
        for part in PARTS:
            wanted = "fp32" if part == "quantizer" else precision
            engine, artifact = _choose(bundle, part, wanted, backend)
            session = engine.load(bundle.path(artifact), artifact, options)
            sessions[part] = session
            loaded.append(
                LoadedArtifact(part, artifact.format, artifact.precision, engine.name, session.device, artifact.file)
            )
        return Tokenizer(bundle, sessions, loaded)
    except BaseException:
        for session in sessions.values():
            session.close()
        raise


def _choose(bundle: Bundle, part: str, precision: str, backend: str | Backend) -> tuple[Backend, Artifact]:
    """The backend and the artifact for a part: the first installed backend that loads a format the bundle has."""
    artifacts = bundle.manifest.find(part, precision=precision)
    if not artifacts:
        found = ", ".join(sorted({a.precision for a in bundle.manifest.find(part)}))
        raise BundleError(
            f"{bundle.folder} has no {part} in {precision}, only in {found}; export it with --precision {precision}"
        )
    if isinstance(backend, str):
        candidates = [get_backend(name) for name in (names() if backend == "auto" else (backend,))]
    elif hasattr(backend, "formats") and hasattr(backend, "load"):
        candidates = [backend]
    else:
        raise BackendError(f'backend is {backend!r}; expected a name, such as "auto", or a Backend')
    fitting = [(engine, a) for engine in candidates for a in artifacts if a.format in engine.formats]
    if not fitting:
        formats = ", ".join(sorted({a.format for a in artifacts}))
        raise BackendError(
            f"{bundle.folder} has its {part} in {precision} only as {formats}, which "
            f"{', '.join(engine.name for engine in candidates)} cannot load; export it as onnx"
        )
    for engine, artifact in fitting:
        if engine.unavailable() is None:
            return engine, artifact
    raise fitting[0][0].unavailable() or MissingDependencyError("running a bundle needs an engine library", "cpu")
