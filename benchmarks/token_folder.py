"""A folder of tokens with made-up ids, for what reads one: written as `coda tokenize` writes it, without images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coda_runtime import Spec
from coda_runtime.bulk.destination import Destination
from coda_runtime.bulk.manifest import FORMAT_VERSION, NAME, WITH_VARIANTS
from coda_runtime.bulk.plan import Settings, make_plan
from coda_runtime.bulk.shards import VARIANT_COLUMNS, rows_per_group, write_shard
from coda_runtime.images.variants import Variants
from coda_runtime.io.omitted import Omitted


def write(
    where: Path,
    spec: Spec,
    images: int,
    *,
    shard_size: int = 10_000,
    variants: Variants | None = None,
    label: Callable[[int], Any] | None = None,
    seed: int = 0,
) -> npt.NDArray[np.int32]:
    """Write a finished folder of random ids, and return them, int32 [images,variants,L]; `label` gives each image's."""
    random = np.random.default_rng(seed)
    each = 1 if variants is None else variants.count
    ids = random.integers(0, spec.vocab_size, (images, each, spec.num_tokens), np.int32)
    keys = [f"{number:08d}.png" for number in range(images)]
    listing = {"path": pa.array(keys), "file": pa.array([key.encode() for key in keys], pa.binary())}
    if label is not None:
        listing["label"] = pa.array([label(number) for number in range(images)])
    settings = Settings(
        source="made up",
        shard_size=shard_size,
        precision="fp32",
        tokenizer={},
        spec=spec.to_json(),
        label=None if label is None else "folder",
        original_size=False,
        image_column="image",
        key_column=None,
        variants=None if variants is None else variants.to_json(),
    )
    plan, _ = make_plan(settings, pa.table(listing), {}, Omitted())
    out = Destination(str(where))
    shards = []
    for number in range(plan.shards):
        here = ids[number * shard_size : (number + 1) * shard_size]
        rows = len(here) * each
        offsets = np.arange(rows + 1, dtype=np.int32) * spec.num_tokens
        table = pa.table(
            {
                "position": number * shard_size + np.repeat(np.arange(len(here)), each),
                "variant": pa.array(np.tile(np.arange(each), len(here)), pa.int32()),
                "ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(here.ravel())),
                "box": pa.array([[0.0, 0.0, 1.0, 1.0]] * rows, pa.list_(pa.float32())),
                "flip": pa.array([False] * rows),
                "error": pa.nulls(rows, pa.string()),
                "made_by": pa.array(["[]"] * rows),
                "profile_ignored": pa.array([False] * rows),
            }
        )
        finished = write_shard(out, plan, number, [table])
        shards.append({"file": finished.file, "images": finished.images, "ids_sha256": finished.ids_sha256})
    columns = ["path", "ids", *(VARIANT_COLUMNS if variants is not None else ()), *(["label"] if label else [])]
    content = {
        "format_version": FORMAT_VERSION if variants is None else WITH_VARIANTS,
        "spec": settings.spec,
        "columns": columns,
        "variants": each,
        "rows_per_group": rows_per_group(each),
        "shards": shards,
    }
    out.write(NAME, json.dumps(content).encode())
    return ids
