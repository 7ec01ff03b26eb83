"""coda-export: folded modules -> ONNX -> a measured, sealed bundle."""

from coda_export.bundle import DEFAULT_OPSET, export_bundle
from coda_export.folding import Folded, SearchWeights, fold
from coda_runtime.parity import DEFAULT_FLOORS, Floor, ParityError, ParityImages, Reference

__all__ = [
    "DEFAULT_FLOORS",
    "DEFAULT_OPSET",
    "Floor",
    "Folded",
    "ParityError",
    "ParityImages",
    "Reference",
    "SearchWeights",
    "export_bundle",
    "fold",
]
