"""A folder of photographs to tokens, and back to the images that the tokens stand for.

pip install "./runtime[cpu,images]"    # in the checkout
python script.py bundle/ photos/ out/        # leaves out/tokens.npz and out/<photo>.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import coda_runtime


def main(bundle: str, photos: str, out: str) -> None:
    paths = sorted(path for path in Path(photos).glob("[!.]*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = paths or sys.exit(f"error: there are no JPEG or PNG files in {photos}")
    Path(out).mkdir(parents=True, exist_ok=True)
    with coda_runtime.load(bundle) as tok:  # once: loading takes longer than an image
        ids = np.empty((len(paths), tok.spec.num_tokens), np.int32)
        for start in range(0, len(paths), tok.images_per_run):  # more at a time would only take memory
            part = slice(start, start + tok.images_per_run)
            ids[part] = tok.encode(paths[part])
            for path, image in zip(paths[part], tok.decode(ids[part]), strict=True):
                Image.fromarray(image).save(Path(out, f"{path.name}.png"))
        # as `coda encode` does, so that `coda decode` takes it; made_with says whose tokens they are
        names, made_with = [path.name for path in paths], list(tok.fingerprints)
        np.savez(Path(out, "tokens.npz"), ids=ids, names=names, made_with=made_with)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:]) if len(sys.argv) == 4 else sys.exit(__doc__)
    except coda_runtime.CodaError as error:  # names the file, and what to do
        sys.exit(f"error: {error}")
