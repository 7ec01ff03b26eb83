"""What the scripts beside this module share: rows of labelled images on white, each drawn larger than it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, CAPTION = 6, 20
INK, PAPER = (70, 74, 84), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """Images uint8 [H, W, 3] behind a label; captions, if there are any, stand under them."""

    label: str
    images: Sequence[np.ndarray]
    captions: Sequence[str] = ()


def draw_rows(rows: Sequence[Row], *, side: int, left: int, font_size: int) -> Image.Image:
    """Draw the rows one under the other: labels in the first ``left`` pixels, then images ``side`` pixels high."""
    tops = [0]
    for row in rows:
        tops.append(tops[-1] + side + GAP + CAPTION * bool(row.captions))
    # All images of a picture have one shape.
    height, width = rows[0].images[0].shape[:2]
    width = round(side * width / height)
    canvas = Image.new("RGB", (left + max(len(row.images) for row in rows) * (width + GAP), tops[-1]), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(font_size)
    for top, row in zip(tops, rows, strict=False):
        draw.text((8, top + side // 2 - 8), row.label, INK, font)
        for x, image in enumerate(row.images):
            tile = Image.fromarray(image).resize((width, side), Image.Resampling.BICUBIC)
            canvas.paste(tile, (left + x * (width + GAP), top))
        for x, caption in enumerate(row.captions):
            draw.text((left + x * (width + GAP), top + side + 2), caption, INK, font)
    return canvas
