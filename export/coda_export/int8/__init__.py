"""int8: a float32 graph's convolutions in integers, with scales taken from images."""

from coda_export.int8.calibration import Calibration
from coda_export.int8.quantize import quantized_graph
from coda_export.int8.scales import Scales, calibrated, scales_for

__all__ = ["Calibration", "Scales", "calibrated", "quantized_graph", "scales_for"]
