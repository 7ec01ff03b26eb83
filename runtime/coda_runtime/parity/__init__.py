"""Parity: how far what runs here is from the unfolded float32 tokenizer it was made of. Needs NumPy, no PyTorch."""

from ..errors import ParityError
from ..format.parity import Measured, NotMeasured, ParityRecord, unmeasured
from ..format.precision import DEFAULT_FLOORS, Floor
from ..format.recording import check_recordable, record_parity
from .measure import mean_psnr, pixel_parity, token_parity
from .meter import ParityImages, ParityMeter
from .reference import Reference
from .samples import ParitySamples
from .saved import SavedReference
from .thresholds import check_floor, floor_of, recorded_floors
from .verify import measure_bundle

__all__ = [
    "DEFAULT_FLOORS",
    "Floor",
    "Measured",
    "NotMeasured",
    "ParityError",
    "ParityImages",
    "ParityMeter",
    "ParityRecord",
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
