"""Parity: how far what runs here is from the unfolded float32 tokenizer it was made of. Needs NumPy, no PyTorch."""

from .floors import DEFAULT_FLOORS, Floor, ParityError, check_floor, recorded_floors, unmeasured
from .measure import mean_psnr, pixel_parity, token_parity
from .meter import ParityImages, ParityMeter
from .reference import Reference
from .samples import ParitySamples
from .saved import SavedReference
from .verify import measure_bundle

__all__ = [
    "DEFAULT_FLOORS",
    "Floor",
    "ParityError",
    "ParityImages",
    "ParityMeter",
    "ParitySamples",
    "Reference",
    "SavedReference",
    "check_floor",
    "mean_psnr",
    "measure_bundle",
    "pixel_parity",
    "recorded_floors",
    "token_parity",
    "unmeasured",
]
