"""A tokenizer inside an asyncio program: encode without stopping the loop, in batches, with an end to the queue.

pip install "./runtime[cpu,images]"    # in the checkout
python asyncio_service.py bundle/ a.jpg b.jpg c.jpg

What to watch for:
- Threads. tok.encode computes and holds the loop up: it belongs in a thread. An executor of its own, one thread for
  each tokenizer (one a device), keeps the loop's default one free and the engines from competing.
- Backpressure. At most `waiting` images are in the service; whoever brings one more waits before it is decoded.
- Cancelling frees the caller at once. A run that has begun goes to its end, and its result is dropped.
- Warm-up is part of starting, closing waits for the run under way: both in the thread, not in the loop.
- Memory. One tokenizer serves all tasks; in the queue are pixels of image_size, not images of any size.
- Tokens. precision="auto" gives the same ids in every process, and a batch gives those of its images one by one.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import coda_runtime
from coda_runtime.images import ImageLike, fit

Ids = npt.NDArray[np.int32]


class TokenService:
    """`async with TokenService(bundle) as service: ids = await service.encode("photo.jpg")`."""

    def __init__(self, bundle: str, *, waiting: int = 64, **settings: Any) -> None:
        self._bundle, self._settings = bundle, settings
        self._room = asyncio.Semaphore(waiting)
        self._queue: asyncio.Queue[tuple[npt.NDArray[np.uint8], asyncio.Future[Ids]]] = asyncio.Queue()
        self._executor = ThreadPoolExecutor(1, "coda-engine")
        self._readers = ThreadPoolExecutor(2, "coda-reader")  # Pillow decodes outside the interpreter's lock
        self._closed = False

    async def __aenter__(self) -> TokenService:
        self._loop = asyncio.get_running_loop()
        self.tok = await self._loop.run_in_executor(self._executor, self._load)
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await self._queue.join()
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        await self._loop.run_in_executor(self._executor, self.tok.close)
        self._executor.shutdown()
        self._readers.shutdown()

    async def encode(self, image: ImageLike) -> Ids:
        """A path, PIL image or uint8 [H,W,3] array -> int32 [L]. Raises what Tokenizer.encode does."""
        async with self._room:
            self._check_open()
            size = self.tok.spec.image_size
            # Before it meets others: a file that cannot be read is nobody else's error.
            pixels = await self._loop.run_in_executor(self._readers, lambda: fit(image, size))
            self._check_open()
            future: asyncio.Future[Ids] = self._loop.create_future()
            self._queue.put_nowait((pixels, future))
            return await future

    def _check_open(self) -> None:
        if self._closed:
            raise coda_runtime.ClosedError("the service is closed; start another")

    def _load(self) -> coda_runtime.Tokenizer:
        tok = coda_runtime.load(self._bundle, **self._settings)
        tok.reconstruct(np.zeros((1, *tok.spec.image_shape, 3), np.uint8))
        return tok

    async def _work(self) -> None:
        """What has gathered during a run is the next one's batch."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.tok.images_per_run and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            wanted = [(pixels, future) for pixels, future in batch if not future.done()]  # not those who gave up
            try:
                if wanted:
                    images = np.stack([pixels for pixels, _ in wanted])
                    rows = await self._loop.run_in_executor(self._executor, self.tok.encode, images)
                    for ids, (_, future) in zip(rows, wanted, strict=True):
                        if not future.done():
                            future.set_result(ids)
            except Exception as error:
                for _, future in wanted:
                    if not future.done():
                        future.set_exception(error)
            finally:
                for _ in batch:
                    self._queue.task_done()


async def main(bundle: str, *paths: str) -> None:
    async with TokenService(bundle) as service:
        results = await asyncio.gather(*map(service.encode, paths), return_exceptions=True)
    for path, result in zip(paths, results, strict=True):
        print(path, result if isinstance(result, BaseException) else result.tolist())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
