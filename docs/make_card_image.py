"""Draw tokenizers side by side: ``python docs/make_card_image.py OUT.webp LABEL=TOKENIZER ...``.

Rows: the eight photographs, the last tokenizer's continuous VAE, and what each tokenizer makes of its tokens; then what
the last one shows after its first scales. Each image is drawn at twice its size.
"""

from __future__ import annotations

import sys

import numpy as np
from drawing import Row, draw_rows

from coda_deploy import photographs
from coda_deploy.evaluate.target import open_target
from coda_runtime.images import fit
from coda_runtime.io.counts import count

PREFIX_SCALES = (1, 2, 3, 5, 7)


def main(out: str, *asked: str) -> None:
    """Write the image."""
    from_tokens = []
    for argument in asked:
        label, _, place = argument.partition("=")
        with open_target(place) as target:
            originals = np.stack([fit(file, target.spec.image_size) for file in photographs.paths()])
            ids = target.encode(originals)
            from_tokens.append(Row(label, target.decode(ids)))
            if argument == asked[-1]:
                first = [Row("photograph", originals), Row("continuous VAE", target.continuous(originals))]
                lengths = [target.spec.prefix_lengths[scales - 1] for scales in PREFIX_SCALES]
                growing = [Row(count(n, "token"), target.decode(ids[:, :n])) for n in lengths]
    drawn = draw_rows([*first, *from_tokens, *growing], side=256, left=150, font_size=17)
    drawn.save(out, quality=92, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
