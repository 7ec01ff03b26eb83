"""`coda tokenize` beside the in-process runtime: images a second, from files to ids, of the same images.

``python -m benchmarks.bench_bulk BUNDLE [--images FEW MANY] [--rounds R] [--json FILE]``. Both read, resize and encode;
the bulk run also writes its shards. The rate of bulk work is from the images that a large run has more than a small
one, since both start an encoder, and read ahead while it loads. One Ray serves all rounds, which alternate.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from PIL import Image

import coda_runtime
from benchmarks.common import paired_ratio, save
from coda_deploy import photographs
from coda_runtime.bulk import tokenize
from coda_runtime.bulk.cluster import cluster


def crops(folder: Path, count: int, side: int) -> list[Path]:
    """Write random square crops of the shipped photographs, as JPEG files of 1.5 times ``side``."""
    draw = random.Random(0)
    photos = []
    for path in photographs.paths():
        with Image.open(path) as image:
            photos.append(image.convert("RGB"))
    out = []
    for number in range(count):
        photo = draw.choice(photos)
        size = int(min(photo.size) * draw.uniform(0.4, 1))
        left, top = draw.randint(0, photo.width - size), draw.randint(0, photo.height - size)
        box = (left, top, left + size, top + size)
        out.append(folder / f"{number:05d}.jpg")
        photo.resize((side * 3 // 2, side * 3 // 2), Image.Resampling.BICUBIC, box).save(out[-1], quality=92)
    return out


def main() -> None:
    """Print the rates of each round, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, nargs=2, default=(512, 2048), metavar=("FEW", "MANY"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    few, many = args.images
    if not 0 < few < many:
        parser.error(f"--images is {few} {many}; expected a small number and a larger one")
    bulk: list[float] = []
    here: list[float] = []
    with (
        tempfile.TemporaryDirectory() as name,
        coda_runtime.load(args.bundle, device=args.device) as tok,
        cluster(None),
    ):
        folder = Path(name)
        (folder / "many").mkdir()
        (folder / "few").mkdir()
        paths = crops(folder / "many", many, max(tok.spec.image_shape))
        for path in paths[:few]:
            (folder / "few" / path.name).hardlink_to(path)
        tok.encode(paths[:8])

        def run(photos: str, number: int) -> float:
            start = time.perf_counter()
            tokenize(args.bundle, folder / photos, folder / f"{photos}-{number}", device=args.device)
            return time.perf_counter() - start

        for number in range(args.rounds):
            bulk.append((many - few) / (run("many", number) - run("few", number)))
            start = time.perf_counter()
            tok.encode(paths[few:])
            here.append((many - few) / (time.perf_counter() - start))
            print(f"round {number}: bulk {bulk[-1]:.1f} images/s, in process {here[-1]:.1f}, {bulk[-1] / here[-1]:.1%}")
    share = paired_ratio(bulk, here)
    print(f"share {share.median:.1%} ({share.low:.1%} to {share.high:.1%})")
    save(args.json, {"images": [few, many], "bulk": bulk, "in_process": here, "share": share.median})


if __name__ == "__main__":
    main()
