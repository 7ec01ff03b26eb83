"""Draw tokenizers or bundles of several sizes: ``python docs/make_sizes_image.py OUT.webp TOKENIZER_OR_BUNDLE ...``.

Of each: three photographs, what comes back from their tokens, and what the first scales alone show.
"""

from __future__ import annotations

import sys

import numpy as np
from drawing import GAP, PAPER, Row, draw_rows
from PIL import Image

from coda_deploy import photographs
from coda_deploy.evaluate.target import open_target
from coda_runtime.format.sizes import size_text
from coda_runtime.images import fit
from coda_runtime.io.counts import count

NAMES = ("astronaut", "cat", "mountains")
HEIGHT = 150


def drawn(place: str) -> Image.Image:
    """Draw the rows of one."""
    with open_target(place) as tok:
        files = [path for path in photographs.paths() if path.stem in NAMES]
        originals = np.stack([fit(path, tok.spec.image_size) for path in files])
        ids = tok.encode(originals)
        rows = [Row(f"{size_text(tok.spec.image_size)} px", originals)]
        for scales in (len(tok.spec.scales), 5):
            length = tok.spec.prefix_lengths[scales - 1]
            rows.append(Row(count(length, "token"), tok.decode(ids[:, :length])))
    return draw_rows(rows, side=HEIGHT, left=110, font_size=15)


def main(out: str, *places: str) -> None:
    """Write the image."""
    parts = [drawn(place) for place in places]
    canvas = Image.new("RGB", (max(p.width for p in parts), sum(p.height + 2 * GAP for p in parts)), PAPER)
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height + 2 * GAP
    canvas.save(out, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:])
