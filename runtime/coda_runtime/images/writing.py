"""Images out."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from .opening import require_pillow


def save_png(file: Path | BinaryIO, image: npt.NDArray[np.uint8]) -> None:
    """Write uint8 [H,W,3] as a PNG, and the folder it goes to. Raises MissingDependencyError, OSError."""
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
    require_pillow().fromarray(image).save(file, format="PNG")
