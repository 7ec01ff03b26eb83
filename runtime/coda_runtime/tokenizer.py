"""The tokenizer of a bundle: images to ids and back."""

from __future__ import annotations

import functools
import operator
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, overload

import numpy as np
import numpy.typing as npt

from .accumulator import Accumulator
from .arrays import host_view, on_gpu
from .backends.base import DeviceArray, Session
from .chunking import fill, run_in_chunks
from .codes.ids import check_ids, pad_ids, split_ids
from .codes.scale_sums import next_scale_inputs, sums
from .errors import ArtifactError, ImageError, InputError, TokenError
from .format.bundle import Bundle
from .format.color import STORED
from .format.parts import IDS, IMAGE, OPERATIONS, PARTS, TensorSpec
from .format.profiles import ANY_SIZE, Batch, BatchSizes
from .format.sizes import count_of, size_text
from .format.spec import Spec
from .images import Batches, Images
from .io.counts import count
from .io.masked_arrays import refuse_masked
from .nvtx_ranges import Ranges, no_ranges
from .sessions import Sessions
from .streaming import Encoded, Stream, T

MAX_PIXELS_PER_RUN = 4 * 256 * 256
"""Larger batches run on the CPU in chunks of at most this many pixels, so that their size costs no memory."""
MAX_PIXELS_PER_GPU_RUN = 32 * 256 * 256
"""As MAX_PIXELS_PER_RUN, on a GPU, where no engine's batch profile says another number."""


@dataclass(frozen=True)
class LoadedArtifact:
    """What one part of a tokenizer runs on.

    `passed_over` names artifacts that backend="auto" would have preferred, each with the reason why it may not load.
    `profiles` are the batch profiles of what was loaded, empty where any batch goes. `tuned` says that backend or
    threads are those that `coda tune` recorded.
    """

    part: str
    format: str
    precision: str
    backend: str
    device: str
    file: str
    passed_over: tuple[str, ...] = ()
    profiles: tuple[Batch, ...] = ()
    tuned: bool = False


class Tokenizer:
    """A loaded bundle. Made by `coda_runtime.load`; a context manager; safe to call from many threads.

    `spec` says what it computes, `artifacts` what was loaded for it, `folder` where from, `fingerprints` which
    tokenizer ids belong to, and `images_per_run` how many images go through the engines at once; it is halved when
    the device has no memory for that many. Engines may have been built for `min_images_per_run` and more, else it is 1:
    a smaller batch takes them as long as that many, for its last image runs again in place of those lacking; to arrays
    on a GPU nothing is added. Of engines with several batch profiles each run takes a batch that one of them holds.
    `color` says what becomes of the ICC profiles of images, as in `LoadOptions`.
    """

    def __init__(
        self,
        bundle: Bundle,
        sessions: Mapping[str, Session],
        artifacts: Sequence[LoadedArtifact],
        color: str = STORED,
        ranges: Ranges = no_ranges,
    ) -> None:
        self.spec: Spec = bundle.spec
        self.artifacts: tuple[LoadedArtifact, ...] = tuple(artifacts)
        self.folder = bundle.folder
        self.fingerprints = bundle.fingerprints
        self.color = color
        self._bundle = bundle
        self._range = ranges
        self._sessions = Sessions(sessions, bundle.spec, bundle.folder, ranges)
        self._codebook = bundle.load_codebook() if bundle.codebook else None
        self._sizes = self._common_sizes(self._sessions.sizes(*sessions))
        on_gpu_alone = all(artifact.device.startswith("cuda") for artifact in self.artifacts)
        pixels = MAX_PIXELS_PER_GPU_RUN if on_gpu_alone else MAX_PIXELS_PER_RUN
        self.min_images_per_run = self._sizes.min
        at_once = max(1, pixels // count_of(self.spec.image_shape))
        self.images_per_run = at_once if self._sizes == ANY_SIZE else self._sizes.max
        self._at_once = self._sizes & BatchSizes(((1, self.images_per_run),))

    @overload
    def encode(self, images: Images) -> npt.NDArray[np.int32]: ...
    @overload
    def encode(self, images: DeviceArray) -> DeviceArray: ...
    def encode(self, images: Images | DeviceArray) -> npt.NDArray[np.int32] | DeviceArray:
        """Turn images into ids.

        Args:
            images: uint8 [B,H,W,3] in RGB, or a list of paths, PIL images or uint8 [H,W,3] arrays of any sizes. What
                is not spec.height x spec.width is scaled with Lanczos until it covers both and cropped at the centre
                (of a square, by its shorter side). The array may be numpy's or of any library that speaks DLPack
                (torch, CuPy, JAX). One on a GPU must be of that size, of a batch that the engines take at once; it is
                not halved without memory. ICC profiles of paths and PIL images are ignored, with one RuntimeWarning a
                call that counts them, or converted by, as `color` says.

        Returns:
            Ids, int32 [B,L], each in [0, V), coarse to fine and row-major inside a scale: a numpy array, or for images
            on a GPU a DeviceArray there, which torch.from_dlpack and its like take over without a copy.

        Raises:
            ImageError: unreadable files, wrong dtype or shape, an empty batch.
            DeviceError: images on a GPU that not all engines run on.
            MissingDependencyError: Pillow is needed and not installed.
            ArtifactError: the graph gives ids that the manifest does not know.
            DeviceMemoryError: the device has no memory even for the smallest batch.
            ClosedError: the tokenizer is closed.
        """
        if on_gpu(images):
            with self._range("encode"):
                return self._sessions.run_on_device(images, self._check_gpu_images, *OPERATIONS["encode"])
        batches = Batches(host_view(images, "images"), self.spec.image_size, self.color)
        out = self._run_in_chunks("encode", len(batches), batches.take, *OPERATIONS["encode"])
        if int(out.min()) < 0 or int(out.max()) >= self.spec.vocab_size:
            raise ArtifactError(
                f"the quantizer gave ids from {out.min()} to {out.max()}, and the manifest says vocab_size "
                f"{self.spec.vocab_size}; export the bundle again"
            )
        if batches.ignored.count:
            warnings.warn(batches.ignored.warning(), RuntimeWarning, stacklevel=2)
        return out

    def encode_iter(
        self, paths: Iterable[T], *, batch_size: int | None = None, workers: int | None = None
    ) -> Generator[Encoded[T], None, None]:
        """Encode images one after the other, of which there may be any number: lazily, in order, in bounded memory.

        An image that cannot be read takes its place among the others with its error, and ends nothing. Images are read
        ahead by threads while a batch runs; leaving the loop early, or closing the iterator, ends them.

        Args:
            paths: paths, PIL images or uint8 [H,W,3] arrays of any sizes, also from a generator, which is asked only
                for what is about to be read.
            batch_size: images that run at once, from 1; None is `images_per_run`. The first result comes after as
                many have been read.
            workers: threads that open images, from 1; None is one a processor, 8 at most. Of images in their own
                size there are never more than these in memory, fitted ones never more than twice `batch_size` and
                `workers` together.

        Yields:
            An `Encoded` for each image: its `path` as it was given, and its `ids`, int32 [L], or its `error`.

        Raises:
            InputError: `batch_size` or `workers` out of range, or a single path.
            ClosedError: the tokenizer is closed, before the call or between two batches.
            ArtifactError, DeviceMemoryError, MissingDependencyError: as `encode`; they end the iteration.
        """
        self._sessions.check_open()
        size = self.images_per_run if batch_size is None else batch_size
        return Stream(paths, self.spec.image_size, self.color, size, workers).run(self.encode)

    @overload
    def decode(self, ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]: ...
    @overload
    def decode(self, ids: DeviceArray) -> DeviceArray: ...
    def decode(self, ids: npt.NDArray[np.integer[Any]] | DeviceArray) -> npt.NDArray[np.uint8] | DeviceArray:
        """Turn ids into images.

        Args:
            ids: int32 [B,n], each in [0, V); n is a whole number of scales, L for the whole image. Other integer
                dtypes are taken too, as are arrays of any library that speaks DLPack. Ids on a GPU must be int32
                [B,L], a batch that the decoder takes at once; they are copied to the host once, to be checked.

        Returns:
            Images, uint8 [B,H,W,3] in RGB, spec.height x spec.width: a numpy array, or for ids on a GPU a DeviceArray
            there.

        Raises:
            TokenError: wrong dtype or shape, an id out of range, an empty batch.
            DeviceError: ids on a GPU that the decoder does not run on.
            DeviceMemoryError: the device has no memory even for the smallest batch.
            ClosedError: the tokenizer is closed.
        """
        if on_gpu(ids):
            with self._range("decode"):
                return self._sessions.run_on_device(ids, self._check_gpu_ids, *OPERATIONS["decode"])
        full = pad_ids(check_ids(host_view(ids, "ids"), self.spec), self.spec)
        return self._run_in_chunks("decode", len(full), lambda where: full[where], *OPERATIONS["decode"])

    @overload
    def reconstruct(self, images: Images) -> npt.NDArray[np.uint8]: ...
    @overload
    def reconstruct(self, images: DeviceArray) -> DeviceArray: ...
    def reconstruct(self, images: Images | DeviceArray) -> npt.NDArray[np.uint8] | DeviceArray:
        """Return `decode(encode(images))`: uint8 [B,H,W,3]. Takes and raises what `encode` does."""
        if on_gpu(images):
            with self._range("reconstruct"):
                return self._sessions.run_on_device(images, self._check_gpu_images, *OPERATIONS["reconstruct"])
        ids = self.encode(images)
        return self.decode(ids)

    def run_parts(self, batch: npt.NDArray[Any], *parts: str) -> npt.NDArray[Any]:
        """Run some parts, in the order of the data, and return what the last one gives.

        encode is "encoder" and "quantizer", decode is "decoder"; between them this gives what neither does, such as the
        latent of images.

        Args:
            batch: what the first part takes: images uint8 [B,H,W,3] of spec.height x spec.width, a latent float32
                [B,C,h,w], or ids int32 [B,L], each in [0, V). More than `images_per_run` run in chunks.
            *parts: one of "encoder", "quantizer", "decoder", or several that follow each other.

        Raises:
            InputError: other parts, or another dtype or shape than the first one takes.
            TokenError: an id out of range.
            DeviceMemoryError, ClosedError: as `encode`.
        """
        known = tuple(PARTS)
        first = known.index(parts[0]) if parts and parts[0] in known else 0
        if not parts or parts != known[first : first + len(parts)]:
            raise InputError(f"parts are {', '.join(map(repr, parts))}; expected some of {', '.join(known)}, in order")
        array, takes = host_view(batch, "batch"), PARTS[parts[0]].input
        refuse_masked(array, "batch")
        array = np.asarray(array)
        if array.size == 0 or array.dtype != takes.dtype or array.shape[1:] != takes.row(self.spec):
            raise InputError(
                f"the batch is {array.dtype} {list(array.shape)}; the {parts[0]} takes {self._wanted(takes)}, B from 1"
            )
        array = np.ascontiguousarray(array)
        if takes is IDS:
            check_ids(array, self.spec)
        return self._run_in_chunks("run_parts", len(array), lambda where: array[where], *parts)

    @contextmanager
    def replaced_parts(self, change: Callable[[str, Session], Session]) -> Iterator[None]:
        """Run each part on the session that `change(part, session)` gives inside the block, to time or to watch it.

        No other thread may use the tokenizer meanwhile. The sessions themselves stay open.
        """
        with self._sessions.replaced(change):
            yield

    def split(self, ids: npt.NDArray[np.integer[Any]]) -> list[npt.NDArray[np.int32]]:
        """Split ids, int32 [B,n], into one int32 [B,h,w] a scale, coarse to fine.

        Raises TokenError as `decode` does.
        """
        return split_ids(check_ids(host_view(ids, "ids"), self.spec), self.spec)

    def embed(self, ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Return ids' quantised latent, float32 [B,C,h,w]: the values of every scale, bicubic-upsampled and summed.

        Takes ids as `decode` does. Raises TokenError, ArtifactError for a bundle without a value table, ClosedError.
        """
        *_, latent = sums(check_ids(host_view(ids, "ids"), self.spec), self.spec, self.codebook)
        return latent

    def next_scale_inputs(self, ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Return what a next-scale generator sees before each scale but the first: its inputs under teacher forcing.

        That is the sum of the coarser scales' upsampled values, area-downsampled to the scale, row-major. VAR's code
        calls this `idxBl_to_var_input`. On another device, or inside a model, `coda_deploy.tokens.NextScale` is the
        same in PyTorch.

        Args:
            ids: as `decode` takes them, in host memory. Of a prefix, the inputs of its scales alone are returned.

        Returns:
            float32 [B,n-h0*w0,C], with h0 x w0 the first scale: row i is what `ids[:, h0*w0 + i]` is predicted from.

        Raises:
            TokenError: as `decode`.
            InputError: ids that lie elsewhere than in host memory.
            ArtifactError: a bundle without a value table.
            ClosedError: the tokenizer is closed.
        """
        return next_scale_inputs(check_ids(host_view(ids, "ids"), self.spec), self.spec, self.codebook)

    def accumulator(self, B: int) -> Accumulator:
        """Start the generation of `B` images, scale by scale.

            acc = tok.accumulator(2)
            inputs = acc.add(ids)    # [2,s,s] or [2,s*s] -> what the next scale is generated from, [2,s'*s',C]
            acc.latent               # the sum so far, [2,C,h,w]
            acc.image()              # what was added, decoded

        `acc.add` is what VAR's code calls `get_next_autoregressive_input`. Raises InputError for a `B` under 1,
        ArtifactError for a bundle without a value table, ClosedError.
        """
        return Accumulator(self.spec, self.codebook, B, self.decode)

    @property
    def codebook(self) -> npt.NDArray[np.float32]:
        """The value of every code, float32 [V,C], read-only. Raises ArtifactError for a bundle without one."""
        self._sessions.check_open()
        return self._bundle.load_codebook() if self._codebook is None else self._codebook

    def close(self) -> None:
        """Free the engines, after the runs that are under way; later calls raise ClosedError. May be called twice."""
        self._sessions.close()

    def __enter__(self) -> Tokenizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a Tokenizer cannot be pickled, since its engines cannot: pass the path {os.fspath(self.folder)!r}, and "
            "call coda_runtime.load in each process"
        )

    def __repr__(self) -> str:
        spec = self.spec
        loaded = ", ".join(f"{a.part} {a.precision} {a.device}" for a in self.artifacts)
        parts = "closed" if self._sessions.closed else loaded
        return (
            f"<coda_runtime.Tokenizer {spec.variant}: {size_text(spec.image_size)} px, "
            f"{count(spec.num_tokens, 'token')} of {spec.vocab_size}; {parts}>"
        )

    def _common_sizes(self, by_part: Mapping[str, BatchSizes]) -> BatchSizes:
        """Return what all parts take, of which `by_part` has those that do not take any. Raises ArtifactError."""
        common = functools.reduce(operator.and_, by_part.values(), ANY_SIZE)
        if not common.ranges:
            told = ", ".join(f"the {part} takes batches {sizes}" for part, sizes in by_part.items())
            raise ArtifactError(
                f"the engines of {self.folder} have no batch size in common: {told}; build them together: coda build "
                "with the same --batch"
            )
        return common

    def _run_in_chunks(
        self, call: str, count: int, chunk: Callable[[slice], npt.NDArray[Any]], *parts: str
    ) -> npt.NDArray[Any]:
        """Run `count` items, of which `chunk` gives those of a slice, through `parts`, for the method `call`."""

        def run(where: slice) -> npt.NDArray[Any]:
            size = where.stop - where.start
            with self._range("batch", size):
                return self._sessions.run(fill(chunk(where), size), *parts)

        with self._range(call, count):
            out, worked = run_in_chunks(count, self.images_per_run, self._sizes, run)
        self.images_per_run = min(worked, self.images_per_run)  # another thread may have met a lower limit meanwhile
        return out

    def _check_gpu_images(self, images: DeviceArray) -> DeviceArray:
        if not self._fits(images, IMAGE):
            raise ImageError(
                f"images on a GPU are {images.dtype} {list(images.shape)}; expected {self._wanted(IMAGE)} with B "
                f"{self._at_once}: resize and split them, or pass them in host memory"
            )
        return images

    def _check_gpu_ids(self, ids: DeviceArray) -> DeviceArray:
        if not self._fits(ids, IDS):
            raise TokenError(
                f"ids on a GPU are {ids.dtype} {list(ids.shape)}; expected {self._wanted(IDS)} with B {self._at_once}: "
                "split them, or pass them in host memory"
            )
        # An id out of range would read past the table on the GPU.
        check_ids(ids.numpy(), self.spec)
        return ids

    def _fits(self, array: DeviceArray, tensor: TensorSpec) -> bool:
        count = array.shape[0] if array.shape else 0
        same = array.dtype == tensor.dtype and array.shape == tensor.shape(self.spec, count)
        return same and count in self._at_once

    def _wanted(self, tensor: TensorSpec) -> str:
        return f"{tensor.dtype} [B,{','.join(map(str, tensor.row(self.spec)))}]"
