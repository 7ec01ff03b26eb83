"""Parity: how far what runs here is from the unfolded float32 tokenizer it was made of. Needs NumPy, no PyTorch."""

from ..errors import ParityError
from ..format.parity import Measured, NotMeasured, ParityRecord, unmeasured
from ..format.precision import DEFAULT_THRESHOLDS, Threshold
from ..format.recording import check_recordable, record_parity
from .measure import mean_psnr, pixel_parity, psnr_loss, token_parity
from .meter import ParityImages, ParityMeter
from .reference import Reference
from .samples import ParitySamples
from .saved import SavedReference
from .thresholds import check_threshold, recorded_thresholds, threshold_of
from .verify import measure_bundle

__all__ = [
    "DEFAULT_THRESHOLDS",
    "Measured",
    "NotMeasured",
    "ParityError",
    "ParityImages",
    "ParityMeter",
    "ParityRecord",
    "ParitySamples",
    "Reference",
    "SavedReference",
    "Threshold",
    "check_recordable",
    "check_threshold",
    "mean_psnr",
    "measure_bundle",
    "pixel_parity",
    "psnr_loss",
    "record_parity",
    "recorded_thresholds",
    "threshold_of",
    "token_parity",
    "unmeasured",
]
