"""What reading a camera's image costs, one at a time and many, and what JPEG's draft mode would do to the tokens.

``python -m benchmarks.bench_image_decoding BUNDLE [--json FILE]``: the shipped photographs, enlarged to 12 megapixels.
Draft mode lets the decoder scale by 1/2, 1/4 or 1/8 before the resize; coda_runtime does not use it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import coda_runtime
from benchmarks.common import save
from coda_deploy import photographs
from coda_runtime.format.sizes import Size, shape_of
from coda_runtime.images import Batches, fit

LARGE = (4000, 3000)
MARGINS = (2, 4)
"""What draft mode leaves of the shorter side, at least, in sizes of the bundle's image."""


def enlarged(folder: Path) -> list[Path]:
    """Write the photographs as a camera of 12 megapixels would."""
    out = []
    for number, path in enumerate(photographs.paths()):
        out.append(folder / f"{number}.jpg")
        with Image.open(path) as image:
            image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC).save(out[-1], quality=92)
    return out


def draft(path: Path, size: Size, margin: int) -> NDArray[np.uint8]:
    """Do as ``fit``, from an image that was decoded smaller."""
    with Image.open(path) as image:
        height, width = shape_of(size)
        scale = margin * max(height / image.height, width / image.width)
        image.draft("RGB", (int(image.width * scale), int(image.height * scale)))
        return fit(image, size)


def main() -> None:
    """Print times, and the tokens that stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, coda_runtime.load(args.bundle, device="cpu") as tok:
        size, paths = tok.spec.image_size, enlarged(Path(folder))
        ways: dict[str, Callable[[Path], NDArray[np.uint8]]] = {"fit": partial(fit, size=size)}
        for margin in MARGINS:
            ways[f"draft, {margin} sizes at least"] = partial(draft, size=size, margin=margin)
        results: dict[str, Any] = {"size": size}
        expected: NDArray[np.int32] | None = None
        for name, way in ways.items():
            images, times = [], []
            for path in paths:
                start = time.perf_counter()
                images.append(way(path))
                times.append(time.perf_counter() - start)
            ids = tok.encode(np.stack(images))
            expected = ids if expected is None else expected
            same = float((ids == expected).mean())
            results[name] = {"median_s": statistics.median(times), "same_ids": same}
            print(f"{name:28s}{statistics.median(times) * 1e3:8.1f} ms per image, {same:.1%} of the ids")
        start = time.perf_counter()
        Batches(paths, size).take(slice(0, len(paths)))
        results["at once"] = {"s_per_picture": (time.perf_counter() - start) / len(paths)}
        print(f"{len(paths)} at once: {results['at once']['s_per_picture'] * 1e3:.1f} ms per image")
    save(args.json, results)


if __name__ == "__main__":
    main()
