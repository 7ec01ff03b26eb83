"""Draw tokenizers side by side: ``python docs/make_card_image.py OUT.webp LABEL=TOKENIZER ...``.

Rows: the eight photographs, the last tokenizer's continuous VAE, and what each tokenizer makes of its tokens; then what
the last one shows after its first scales. Each image is drawn at twice its size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from coda_deploy import photographs
from coda_deploy.evaluate.target import open_target
from coda_runtime.images import fit

SIDE, GAP, LEFT = 256, 6, 150
INK, PAPER = (70, 74, 84), (255, 255, 255)
PREFIX_SCALES = (1, 2, 3, 5, 7)


def main(out: str, *asked: str) -> None:
    """Write the image."""
    files = sorted(Path(photographs.__file__).parent.glob("*.jpg"))
    rows: dict[str, np.ndarray] = {"photograph": np.empty(0), "continuous VAE": np.empty(0)}
    for label, _, place in (argument.partition("=") for argument in asked):
        with open_target(place) as target:
            originals = np.stack([fit(file, target.spec.image_size) for file in files])
            ids = target.encode(originals)
            rows[label] = target.decode(ids)
            rows["photograph"], rows["continuous VAE"] = originals, target.continuous(originals)
            lengths = [target.spec.prefix_lengths[scales - 1] for scales in PREFIX_SCALES]
            growing = {f"{n} token{'s' * (n > 1)}": target.decode(ids[:, :n]) for n in lengths}
    rows |= growing
    canvas = Image.new("RGB", (LEFT + len(files) * (SIDE + GAP), len(rows) * (SIDE + GAP)), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(17)
    for y, (label, images) in enumerate(rows.items()):
        draw.text((8, y * (SIDE + GAP) + SIDE // 2 - 8), label, INK, font)
        for x, image in enumerate(images):
            tile = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            canvas.paste(tile, (LEFT + x * (SIDE + GAP), y * (SIDE + GAP)))
    canvas.save(out, quality=92, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
