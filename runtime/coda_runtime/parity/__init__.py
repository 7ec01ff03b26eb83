"""Parity: how far what runs here is from the unfolded float32 tokenizer it was made of. Needs NumPy, no PyTorch."""

from ..errors import ParityError
from ..format.parity_record import check_recordable, record_parity
from .measure import mean_psnr, pixel_parity, token_parity
from .meter import ParityImages, ParityMeter
from .reference import Reference
from .samples import ParitySamples
from .saved import SavedReference
from .thresholds import DEFAULT_FLOORS, Floor, check_floor, floor_of, recorded_floors, unmeasured
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
    "check_recordable",
    "floor_of",
    "mean_psnr",
    "measure_bundle",
    "pixel_parity",
    "record_parity",
    "recorded_floors",
    "token_parity",
    "unmeasured",
]
