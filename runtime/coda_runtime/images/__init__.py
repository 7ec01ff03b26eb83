"""Images in: checks, and the one official way from any image to uint8 [H,W,3].

The rule: turn upright by EXIF, convert to RGB (transparent pixels over white, 16-bit grey to 8), scale with Lanczos and
the aspect kept until H and W are both covered, cut out the centre. For a square of side S that is PyTorch's
`Resize(S, LANCZOS)` and `CenterCrop(S)` on a PIL image. An array that already is H x W goes through untouched and needs
no Pillow.

Profiles are ignored unless `color` is "srgb"; docs/images.md has the rule with its cases.

Files are not trusted: only `FORMATS` are read, up to `MAX_PIXELS` and for `MAX_SECONDS`, and nothing but an ImageError
comes of a bad one.
"""

from __future__ import annotations

from .arrays import Pixels, check_batch
from .batches import Batches, ImageLike, Images
from .budget import MAX_SECONDS
from .opening import FORMATS, MAX_PIXELS, require_pillow
from .profiles import IgnoredProfiles, differs
from .reading import open_rgb
from .resizing import fit, fit_bytes, resize
from .writing import save_png

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SECONDS",
    "Batches",
    "IgnoredProfiles",
    "ImageLike",
    "Images",
    "Pixels",
    "check_batch",
    "differs",
    "fit",
    "fit_bytes",
    "open_rgb",
    "require_pillow",
    "resize",
    "save_png",
]
