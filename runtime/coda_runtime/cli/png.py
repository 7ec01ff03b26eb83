"""Images out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def save_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write uint8 [H,W,3] as a PNG, and the folder it goes to. Raises MissingDependencyError, OSError."""
    from ..images import require_pillow

    path.parent.mkdir(parents=True, exist_ok=True)
    require_pillow().fromarray(image).save(path, format="PNG")
