"""coda-export: folded modules -> ONNX -> a measured, sealed bundle."""

from coda_export.bundle import DEFAULT_OPSET, export_bundle
from coda_export.extension import add_precisions
from coda_export.folding import Folded, SearchWeights, fold
from coda_export.int8 import Calibration
from coda_runtime.parity import DEFAULT_THRESHOLDS, ParityError, ParityImages, Reference, Threshold

__all__ = [
    "DEFAULT_OPSET",
    "DEFAULT_THRESHOLDS",
    "Calibration",
    "Folded",
    "ParityError",
    "ParityImages",
    "Reference",
    "SearchWeights",
    "Threshold",
    "add_precisions",
    "export_bundle",
    "fold",
]
