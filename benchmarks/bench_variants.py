"""What several variants of an image cost to read: decoded once and cut many times, beside decoded for each.

``python -m benchmarks.bench_variants [--size 256] [--rounds 5] [--json FILE]``. Milliseconds of a processor an image,
over the photographs that ship with coda-deploy, from the bytes of a JPEG file to uint8 pixels; the ways take turns.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import save
from coda_deploy import photographs
from coda_runtime.format.sizes import parse_size
from coda_runtime.images import open_rgb
from coda_runtime.images.variants import ONE, Variants

CHOICES = {
    "one": ONE,
    "flip": Variants(flip=True),
    "ten": Variants("ten"),
    "ten at two zooms": Variants("ten", zoom=(1.05, 1.1)),
    "random:4, flip": Variants("random:4", flip=True),
    "random:16": Variants("random:16"),
}


def main() -> None:
    """Print the milliseconds of each choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    files = [(path.name, path.read_bytes()) for path in photographs.paths()]

    def once(variants: Variants) -> None:
        for name, data in files:
            variants.cut(open_rgb(io.BytesIO(data), name=name), args.size, name)

    def for_each(variants: Variants) -> None:
        for name, data in files:
            for _ in range(variants.count):
                ONE.cut(open_rgb(io.BytesIO(data), name=name), args.size, name)

    def milliseconds(run: Callable[[Variants], None], variants: Variants) -> float:
        start = time.process_time()
        run(variants)
        return (time.process_time() - start) * 1000 / len(files)

    taken: dict[str, dict[str, list[float]]] = {name: {"once": [], "for each": []} for name in CHOICES}
    for _ in range(args.rounds):
        for name, variants in CHOICES.items():
            taken[name]["once"].append(milliseconds(once, variants))
            taken[name]["for each"].append(milliseconds(for_each, variants))
    results = {}
    for name, variants in CHOICES.items():
        row = {way: statistics.median(times) for way, times in taken[name].items()}
        results[name] = {"variants": variants.count, **row}
        print(f"{name:18} {variants.count:3}: {row['once']:7.1f} ms decoded once, {row['for each']:7.1f} for each")
    save(args.json, {"size": args.size, "rounds": args.rounds, "choices": results})


if __name__ == "__main__":
    main()
