"""Memory and time of the driver of `coda tokenize` over very many images, with made-up keys and no pixels.

``python -m benchmarks.bench_plan [--keys 10000000] [--files 1000] [--json FILE]``. The keys are those of .tar files
with equally many images. It makes the plan, reads it as a resumed run does, and gives all of it out as Ray gets it,
round by round, while the results of one shard after the other are held as they come. Seconds are of a processor; memory
is what this process has more than at the start, at most.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.bench_tokens import SPEC
from benchmarks.common import peak_memory, save
from coda_runtime.bulk.defaults import SHARD_SIZE
from coda_runtime.bulk.pipeline import chunks, rounds
from coda_runtime.bulk.plan import Settings, make_plan, read_plan
from coda_runtime.bulk.sources.base import Part, table_of
from coda_runtime.io.omitted import Omitted

CHUNK = 32
"""Images in a chunk, as for 256 x 256."""


def listing(keys: int, files: int) -> pa.Table:
    """Return what a source of so many images in so many .tar files lists."""
    each = -(-keys // files)
    parts = []
    for number in range(files):
        here = range(number * each, min(keys, (number + 1) * each))
        names = pa.array((f"train-{number:06d}.tar/{key:012d}.jpg" for key in here), pa.string())
        sizes = np.random.default_rng(number).integers(20_000, 200_000, len(here))
        offsets = np.cumsum(sizes) - sizes
        parts.append(Part(f"/data/train-{number:06d}.tar", names, {"offset": offsets.tolist(), "size": sizes.tolist()}))
    return table_of(parts, None)


def main() -> None:
    """Print what each step takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before, steps = peak_memory(), {}

    def step(name: str, start: float) -> None:
        steps[name] = {"seconds": time.process_time() - start, "peak_mb": peak_memory() - before}
        print(f"{name:10} {steps[name]['seconds']:8.1f} s, peak {steps[name]['peak_mb']:8.0f} MB")

    start = time.process_time()
    images = listing(args.keys, args.files)
    table_mb = images.nbytes / 2**20
    step("listing", start)
    start = time.process_time()
    settings = Settings("made up", SHARD_SIZE, "fp32", {}, SPEC.to_json(), None, False, "image", None)
    _, data = make_plan(settings, images, {}, Omitted())
    del images
    step("plan", start)
    start = time.process_time()
    plan = read_plan(data, "the plan")
    objects = largest = given = 0
    ids = np.zeros((SHARD_SIZE, SPEC.num_tokens), np.int32)
    for some in rounds(plan, range(plan.shards), CHUNK):
        items = list(chunks(plan, some, CHUNK))
        objects = max(objects, len(items))
        largest = max(largest, sum(len(item["rows"]) for item in items if isinstance(item["rows"], bytes)))
        for _ in some:
            given += len(ids.copy()) > 0
    step("rounds", start)
    if given != plan.shards:
        raise AssertionError(f"{given} shards were given out of {plan.shards}")
    about = {"plan_mb": len(data) / 2**20, "table_mb": table_mb, "objects": objects, "objects_mb": largest / 2**20}
    print(f"the listing has {table_mb:.0f} MB, plan.arrow {about['plan_mb']:.0f} MB")
    print(f"Ray has at most {objects} objects of {about['objects_mb']:.0f} MB in all")
    save(args.json, {"keys": args.keys, "files": args.files, "steps": steps, **about})


if __name__ == "__main__":
    main()
