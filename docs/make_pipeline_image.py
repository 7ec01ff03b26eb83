"""Draw docs/images/pipeline.webp: ``python docs/make_pipeline_image.py demo/bundle docs/images/pipeline.webp``."""

from __future__ import annotations

import math
import sys

import numpy as np
from drawing import Row, draw_rows

import coda_runtime
from coda_deploy import photographs
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.images import fit
from coda_runtime.io.counts import count

NAMES = ("astronaut", "coffee", "cat", "dogs", "mountains", "rocket", "sunset")
GROWS = NAMES.index("cat")
LENGTHS = (1, 14, 55, 155, 255, 424, 680)


def main(bundle: str, out: str) -> None:
    """Three rows: photographs, what came back from their tokens, one photograph growing scale by scale."""
    files = {file.stem: file for file in photographs.paths()}
    with coda_runtime.load(bundle) as tokenizer:
        originals = np.stack([fit(files[name], tokenizer.spec.image_size) for name in NAMES])
        ids = tokenizer.encode(originals)
        decoded = tokenizer.decode(ids)
        bits = math.log2(tokenizer.spec.vocab_size)
        growing = [tokenizer.decode(ids[GROWS : GROWS + 1, :n])[0] for n in LENGTHS]
    rows = (
        Row(f"original\n{originals[0].nbytes:,} bytes", originals),
        Row(
            f"from {count(ids.shape[1], 'token')}\n{math.ceil(ids.shape[1] * bits / 8):,} bytes",
            decoded,
            [f"{value:.1f} dB" for value in psnr_per_image(originals, decoded)],
        ),
        Row("growing", growing, [count(n, "token") for n in LENGTHS]),
    )
    draw_rows(rows, side=150, left=138, font_size=15).save(out, quality=90, method=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
