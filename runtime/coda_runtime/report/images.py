"""Images as data URIs, so that the report is one file."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from ..images import require_pillow
from .markup import Markup, el


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Turn uint8 [H, W, 3] into a ``data:image/png`` URI. Raises MissingDependencyError without Pillow."""
    buffer = BytesIO()
    require_pillow().fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def picture(pixels: NDArray[np.uint8], alt: str, *, kind: str = "photo") -> Markup:
    """Return an ``img`` of uint8 [H, W, 3]. ``kind`` is its CSS class: "photo" is smoothed if enlarged, "codes" not."""
    height, width = pixels.shape[:2]
    return el("img", src=png_uri(pixels), alt=alt, width=width, height=height, class_=kind)
