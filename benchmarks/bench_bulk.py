"""`coda tokenize` beside the in-process runtime: images a second, from files to ids, of the same pictures.

``python -m benchmarks.bench_bulk BUNDLE [--images N] [--rounds R] [--json FILE]``. Both read, resize and encode; the
bulk run also writes its shards. One Ray serves all rounds, which alternate; the time of a bulk run starts with its
first result, since starting Ray and loading the bundle do not grow with the number of images.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

import coda_runtime
from benchmarks.common import save
from coda_deploy import photographs
from coda_runtime.bulk import tokenize
from coda_runtime.bulk.cluster import cluster


def crops(folder: Path, count: int, side: int) -> list[Path]:
    """Random square crops of the shipped photographs, as JPEG files of 1.5 times ``side``."""
    draw = random.Random(0)
    pictures = []
    for path in photographs.paths():
        with Image.open(path) as image:
            pictures.append(image.convert("RGB"))
    out = []
    for number in range(count):
        picture = draw.choice(pictures)
        size = int(min(picture.size) * draw.uniform(0.4, 1))
        left, top = draw.randint(0, picture.width - size), draw.randint(0, picture.height - size)
        box = (left, top, left + size, top + size)
        out.append(folder / f"{number:05d}.jpg")
        picture.resize((side * 3 // 2, side * 3 // 2), Image.Resampling.BICUBIC, box).save(out[-1], quality=92)
    return out


def main() -> None:
    """Print the rates of each round, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bulk: list[float] = []
    here: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        coda_runtime.load(args.bundle, device=args.device) as tok,
        cluster(None),
    ):
        (Path(folder) / "pictures").mkdir()
        paths = crops(Path(folder) / "pictures", args.images, tok.spec.image_size)
        tok.encode(paths[:8])
        for number in range(args.rounds):
            done = tokenize(args.bundle, Path(folder) / "pictures", Path(folder) / str(number), device=args.device)
            if done.images_per_second is None:
                parser.error("--images is too small for a rate: everything was in the first result")
            bulk.append(done.images_per_second)
            start = time.perf_counter()
            tok.encode(paths)
            here.append(len(paths) / (time.perf_counter() - start))
            print(f"round {number}: bulk {bulk[-1]:.1f} images/s, in process {here[-1]:.1f}, {bulk[-1] / here[-1]:.1%}")
    ratio = statistics.median(b / h for b, h in zip(bulk, here, strict=True))
    print(f"median of the ratios {ratio:.1%}")
    save(args.json, {"images": args.images, "bulk": bulk, "in_process": here, "ratio": ratio})


if __name__ == "__main__":
    main()
