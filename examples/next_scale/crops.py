"""Random square crops of a few photographs: something to train on where there is no dataset.

python examples/next_scale/crops.py photos/ crops/ --count 400
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

from coda_runtime.images import open_rgb
from coda_runtime.io.image_files import find_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--side", type=int, default=128)
    args = parser.parse_args()
    files = [args.photos / name for name in find_images(args.photos).images]
    if not files:
        parser.error(f"{args.photos} has no images")
    args.out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    photos = [open_rgb(path, name=str(path)) for path in files]
    for number in range(args.count):
        photo = draw.choice(photos)
        side = int(min(photo.size) * draw.uniform(0.4, 1.0))
        left, top = draw.randint(0, photo.width - side), draw.randint(0, photo.height - side)
        crop = photo.resize((args.side, args.side), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        crop.save(args.out / f"{number:05d}.png")


if __name__ == "__main__":
    main()
