"""Draw docs/images/pipeline.png: ``python docs/make_pipeline_image.py demo/bundle docs/images/pipeline.png``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import coda_runtime
from coda_deploy import photographs
from coda_runtime.images import fit

TILE, GAP, LEFT, CAPTION = 150, 6, 118, 20
INK, PAPER = (70, 74, 84), (255, 255, 255)


def _tile(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)


def main(bundle: str, out: str) -> None:
    """Three rows: photographs, what came back from 680 tokens, one photograph growing scale by scale."""
    names = ("astronaut", "coffee", "cat", "dogs", "mountains", "rocket", "sunset")
    files = [Path(photographs.__file__).parent / f"{name}.jpg" for name in names]
    with coda_runtime.load(bundle) as tokenizer:
        originals = np.stack([fit(file, tokenizer.spec.image_size) for file in files])
        ids = tokenizer.encode(originals)
        decoded = tokenizer.decode(ids)
        lengths = [n for n in tokenizer.spec.prefix_lengths if n in (1, 14, 55, 155, 255, 424, 680)]
        growing = [tokenizer.decode(ids[2:3, :n])[0] for n in lengths]
    rows = (("photograph", originals, None), ("680 tokens", decoded, None), ("growing", growing, lengths))
    width, height = LEFT + len(names) * (TILE + GAP), len(rows) * (TILE + GAP) + CAPTION
    canvas = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for y, (label, images, captions) in enumerate(rows):
        top = y * (TILE + GAP)
        draw.text((8, top + TILE // 2 - 8), label, INK, font)
        for x, image in enumerate(images):
            left = LEFT + x * (TILE + GAP)
            canvas.paste(_tile(image), (left, top))
            if captions is not None:
                draw.text((left, top + TILE + 2), f"{captions[x]} token{'s' * (captions[x] > 1)}", INK, font)
    canvas.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
