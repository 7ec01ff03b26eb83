"""The models `encode` and `decode`, as kserve's data plane calls them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter

from ..codes.ids import check_ids
from ..errors import InputError
from ..format.parts import IDS, IMAGE
from ..format.spec import Spec
from ..images import IgnoredProfiles, Pixels, fit, fit_bytes
from .admission import current_record
from .batching import Batcher, Rows
from .kserve_parts import Model
from .options import ServeOptions
from .tensors import Tensor, only_input, read_files, read_ids, read_pixels
from .wire import Request, Response

T = TypeVar("T")
_LOG = logging.getLogger("coda.serve")
_FORMATS = ("JPEG", "PNG")


class TokenModel(Model):  # type: ignore[misc] # kserve has no types
    """What the two models share. `batcher` is set when the bundle is loaded; the model is ready from then on."""

    datatypes: tuple[str, ...]

    def __init__(self, name: str, spec: Spec, options: ServeOptions, pool: ThreadPoolExecutor) -> None:
        super().__init__(name)
        self.spec, self._options, self._pool = spec, options, pool
        self.batcher: Batcher | None = None
        self._input, self._output = self.tensors()

    def tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the input and the output as V2 metadata: name, datatype, shape with -1 where any size goes."""
        raise NotImplementedError

    async def rows(self, tensor: Tensor) -> Rows:
        """Return the rows that the engine takes, one for each image."""
        raise NotImplementedError

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the input's metadata."""
        return [self._input]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the output's metadata."""
        return [self._output]

    def load(self) -> bool:
        """Return whether it is ready. kserve calls this for a model that is not, and expects it to be loaded then."""
        return bool(self.ready)

    async def predict(self, payload: Request, headers: Mapping[str, str] | None = None) -> Response:
        """Answer a request. Raises InputError for what is wrong in it, QueueFullError, and what the engine raises."""
        if self.batcher is None:
            raise RuntimeError(f"{self.name} was called before the bundle was loaded")
        self._check_outputs(payload)
        rows = await self.rows(only_input(payload.inputs, self._input["name"], self.datatypes))
        record = current_record.get()
        job = self.batcher.submit(self.name, rows)
        try:
            results = await asyncio.wrap_future(job.future)
        finally:
            if job.started is not None:
                record.queue_ms = (job.started - job.arrived) * 1e3
                record.run_ms = None if job.ended is None else (job.ended - job.started) * 1e3
        return Response(payload.id, self.name, self._output["name"], self._output["datatype"], results)

    def expect(self, images: int) -> AbstractContextManager[None]:
        """Note how many images the request has, and keep room for them in the queue while they are prepared."""
        current_record.get().images = images
        assert self.batcher is not None  # noqa: S101 - predict has checked it
        return self.batcher.room(images)

    async def in_pool(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of `calls`, each run in the pool.

        Those not begun are dropped when one fails or we are cancelled.
        """
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._pool, call) for call in calls]
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    async def read(self, reader: Callable[[Tensor, int], T], tensor: Tensor) -> T:
        """Return what `reader` makes of a tensor; in the pool if it is a list of numbers, which takes long."""
        call = partial(reader, tensor, self._options.max_images)
        return (await self.in_pool([call]))[0] if isinstance(tensor.content, list) else call()

    def _check_outputs(self, request: Request) -> None:
        names = [name for name, _ in request.outputs]
        if names not in ([], [self._output["name"]]):
            found = ", ".join(map(repr, names[:5]))
            raise InputError(
                f"the outputs are {found}; {self.name} has {self._output['name']!r} once, and nothing else"
            )


class Encode(TokenModel):
    """Images to ids. `ignored_profiles` counts images with a colour profile other than sRGB that was ignored."""

    datatypes = (IMAGE.datatype, "BYTES")

    def __init__(
        self, name: str, spec: Spec, options: ServeOptions, pool: ThreadPoolExecutor, ignored_profiles: Counter
    ) -> None:
        super().__init__(name, spec, options, pool)
        self.ignored_profiles = ignored_profiles
        self._told = False

    def tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return `image` UINT8 [N,H,W,3], or BYTES [N]; `ids` INT32 [N,L]."""
        return (
            {"name": IMAGE.name, "datatype": IMAGE.datatype, "shape": [-1, -1, -1, 3]},
            {"name": IDS.name, "datatype": IDS.datatype, "shape": [-1, *IDS.row(self.spec)]},
        )

    async def rows(self, tensor: Tensor) -> Pixels:
        """Return uint8 [N,H,W,3], resized by the official rule."""
        size, max_images = self.spec.image_size, self._options.max_images
        ignored = IgnoredProfiles()
        fits: list[Callable[[], Pixels]]
        if tensor.datatype == "BYTES":
            files = read_files(tensor, max_images)
            read = partial(
                fit_bytes,
                size=size,
                formats=_FORMATS,
                max_pixels=self._options.max_pixels,
                max_seconds=self._options.max_decode_seconds,
                color=self._options.color,
                ignored=ignored,
            )
            fits = [partial(read, file, name=f"image[{number}]") for number, file in enumerate(files)]
        else:
            pixels = await self.read(read_pixels, tensor)
            if pixels.shape[1:3] == self.spec.image_shape:
                with self.expect(len(pixels)):
                    return pixels
            self._check_size(pixels)
            fits = [partial(fit, image, size, name=f"image[{number}]") for number, image in enumerate(pixels)]
        with self.expect(len(fits)):
            rows = np.stack(await self.in_pool(fits))
        if ignored.count:
            self._tell(ignored)
        return rows

    def _tell(self, ignored: IgnoredProfiles) -> None:
        """Count the images of a request whose profile was ignored; the first of all are told of in the log."""
        self.ignored_profiles.inc(ignored.count)
        if not self._told:
            self._told = True
            _LOG.warning(ignored.warning())

    def _check_size(self, pixels: Pixels) -> None:
        height, width = pixels.shape[1:3]
        if height * width > self._options.max_pixels:
            raise InputError(
                f"image has {width} x {height} pixels, more than the limit of {self._options.max_pixels}; scale it down"
            )


class Decode(TokenModel):
    """Ids to images."""

    datatypes = (IDS.datatype, "INT64")

    def tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return `ids` INT32 [N,n]; `image` UINT8 [N,S,S,3]."""
        return (
            {"name": IDS.name, "datatype": IDS.datatype, "shape": [-1, -1]},
            {"name": IMAGE.name, "datatype": IMAGE.datatype, "shape": [-1, *IMAGE.row(self.spec)]},
        )

    async def rows(self, tensor: Tensor) -> npt.NDArray[np.int32]:
        """Return int32 [N,n], each in [0, V). Rows of different n are never in one batch."""
        ids = await self.read(read_ids, tensor)
        with self.expect(len(ids)):
            return check_ids(ids, self.spec)
