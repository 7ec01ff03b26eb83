"""Reading and encoding on Ray Data: tasks read and resize, one actor for each GPU, or for each node, encodes.

Whatever of it dies is started again by Ray, and what it had under way is computed again; the same images come out
once, in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backends.base import LoadOptions
from ..errors import BackendError, DeviceError, one_line
from ..format.sizes import count_of, read_size, shape_of
from . import failures
from .defaults import TIMEOUT_S
from .encoder import Encoder
from .plan import Plan
from .preprocess import pack_rows, read_pixels
from .sources import Reader

if TYPE_CHECKING:
    import pyarrow as pa

_PIXELS_PER_CHUNK = 32 * 256 * 256
_MAX_PER_CHUNK = 256
_CHUNKS_PER_ROUND = 1 << 15
"""A chunk's rows of the plan are an object of Ray's from the start of its round. A new round starts new encoders."""
_BYTES_UNDER_WAY = 256 << 20
"""For each encoder: pixels that wait for it, and never more than half of Ray's memory. Reading stops beyond."""


@dataclass(frozen=True)
class Workers:
    """How many encoders there are, and the GPUs that each holds."""

    count: int
    gpus: int


def choose_workers(ray: Any, device: str) -> Workers:
    """Choose one encoder a GPU, or if there is none, or `device` is "cpu", one a node. Raises DeviceError."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and gpus == 0:
        raise DeviceError('device is "cuda", and Ray sees no GPU here; use device="cpu", or a cluster with GPUs')
    if device != "cpu" and gpus > 0:
        return Workers(gpus, 1)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    return Workers(max(1, len(nodes)), 0)


def encode_shards(
    ray: Any,
    plan: Plan,
    shards: Sequence[int],
    reader: Reader,
    bundle: str,
    options: LoadOptions,
    chunk: int | None = None,
    image_timeout: float = TIMEOUT_S,
) -> Iterator[pa.Table]:
    """Yield the ids of all images of some shards, as tables of what `Encoder` gives for neighbours in one shard.

    Each encoder loads `bundle`, a path that every node sees or a Hub id, as `options` say. `chunk` is how many images
    go through the pipeline together; None chooses by their size. `image_timeout` is in seconds, for each image. Raises
    the CodaError that ended a process' work, BackendError when Ray fails.
    """
    size = read_size(plan.settings.spec["image_size"])
    pixels = plan.variants.count * count_of(shape_of(size))
    chunk = chunk or max(1, min(_MAX_PER_CHUNK, _PIXELS_PER_CHUNK // pixels))
    for some in rounds(plan, shards, chunk):
        yield from _encode(ray, plan, some, reader, bundle, options, chunk, image_timeout)


def rounds(plan: Plan, shards: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the shards in rounds of so many chunks that Ray and the driver hold at once, of one shard at least."""
    each = max(1, _CHUNKS_PER_ROUND // -(-plan.settings.shard_size // size))
    for start in range(0, len(shards), each):
        yield list(shards[start : start + each])


def _encode(
    ray: Any,
    plan: Plan,
    shards: Sequence[int],
    reader: Reader,
    bundle: str,
    options: LoadOptions,
    chunk: int,
    image_timeout: float,
) -> Iterator[pa.Table]:
    size = read_size(plan.settings.spec["image_size"])
    workers = choose_workers(ray, options.device)
    items = list(chunks(plan, shards, chunk))
    data = ray.data.from_items(items, override_num_blocks=len(items))
    data.context.execution_options.resource_limits = data.context.execution_options.resource_limits.copy(
        object_store_memory=min(_BYTES_UNDER_WAY * workers.count, _object_store(ray) // 2)
    )
    whole_blocks = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    data = data.map_batches(
        read_pixels,
        fn_kwargs={
            "reader": reader,
            "size": size,
            "original_size": plan.settings.original_size,
            "image_timeout": image_timeout,
            "color": plan.settings.color,
            "variants": plan.variants,
        },
        num_cpus=1,
        **whole_blocks,
    )
    # No CPU is reserved for an encoder: one that starts again elsewhere must not take the last one from the readers.
    data = data.map_batches(
        Encoder,
        fn_constructor_kwargs={"bundle": bundle, "options": options, "tokenizer": plan.settings.tokenizer},
        compute=ray.data.ActorPoolStrategy(size=workers.count),
        num_cpus=0,
        num_gpus=workers.gpus or None,
        **whole_blocks,
    )
    try:
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if table.column("failure").null_count < len(table):
                raise failures.unpack(table.column("failure").drop_null()[0].as_py())
            yield table
    except ray.exceptions.RayError as error:
        raise BackendError(
            f"Ray failed ({one_line(error, named=True, line=-1)}); run the same command again to continue, "
            "with --debug for the traceback"
        ) from error


def _object_store(ray: Any) -> int:
    """Return the bytes of shared memory of all nodes; what does not fit goes to disk."""
    return int(ray.cluster_resources().get("object_store_memory", 2 * _BYTES_UNDER_WAY))


def chunks(plan: Plan, shards: Sequence[int], size: int) -> Iterator[dict[str, object]]:
    """Yield what enters the pipeline: at most `size` neighbours of one shard each, as `read_pixels` takes them."""
    for number in shards:
        rows = plan.shard(number)
        first = number * plan.settings.shard_size
        for start in range(0, rows.num_rows, size):
            yield pack_rows(first + start, rows.slice(start, size))
