"""The pipeline without Ray: the same steps in this process, in an order that a test chooses."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from coda_runtime.backends.base import LoadOptions
from coda_runtime.bulk import failures, pipeline, run
from coda_runtime.bulk.destination import Destination
from coda_runtime.bulk.encoder import Encoder
from coda_runtime.bulk.plan import Plan
from coda_runtime.bulk.preprocess import read_pixels
from coda_runtime.bulk.sources import Reader
from coda_runtime.format.sizes import read_size


class Here:
    """Takes the place of `encode_shards`. Gives the chunks in an order drawn from `seed`, `twice` some of them."""

    def __init__(self, seed: int = 0, *, twice: bool = False) -> None:
        self._random = random.Random(seed)
        self._twice = twice
        self.positions: list[int] = []

    def __call__(
        self,
        ray: Any,
        plan: Plan,
        shards: Sequence[int],
        reader: Reader,
        bundle: str,
        options: LoadOptions,
        chunk: int | None,
        image_timeout: float,
    ) -> Iterator[pa.Table]:
        encode = Encoder(bundle, options, plan.settings.tokenizer)
        items = list(pipeline.chunks(plan, shards, chunk or 4))
        items += items[:2] if self._twice else []
        self._random.shuffle(items)
        size = read_size(plan.settings.spec["image_size"])
        for item in items:
            packed = pa.Table.from_pylist([item])
            original_size = plan.settings.original_size
            read = read_pixels(
                packed,
                reader=reader,
                size=size,
                original_size=original_size,
                image_timeout=image_timeout,
                color=plan.settings.color,
                variants=plan.variants,
            )
            table = encode(read)
            if table.column("failure").null_count < len(table):
                raise failures.unpack(table.column("failure").drop_null()[0].as_py())
            self.positions += table.column("position").to_pylist()
            yield table


@contextlib.contextmanager
def without_ray(here: Here | None = None) -> Iterator[Here]:
    """`tokenize` runs its steps in this process while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        here = here or Here()
        patch.setattr(run, "cluster", lambda address: contextlib.nullcontext())
        patch.setattr(run, "encode_shards", here)
        yield here


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@contextlib.contextmanager
def killed_at(kill: int | None, out: Path) -> Iterator[Callable[..., None]]:
    """Let a run die at its step of that number, and end the block there; None lets it live.

    A step is a file to be written, half of which lies beside by then, or a call of what this gives: for each result.
    """
    steps, write = itertools.count(), Destination.write

    def step(*_: int) -> None:
        if next(steps) == kill:
            raise Killed

    def dying(self: Destination, name: str, data: bytes) -> None:
        (out / f".{name}.0-dead.part").write_bytes(data[: len(data) // 2])
        step()
        write(self, name, data)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Destination, "write", dying)
        yield step
