"""Parity: how far an exported artifact is from the tokenizer it was made of."""

from coda_export.parity.bundle import ParityImages, ParityMeter
from coda_export.parity.floors import DEFAULT_FLOORS, Floor, ParityError, check_floor
from coda_export.parity.reference import Reference

__all__ = ["DEFAULT_FLOORS", "Floor", "ParityError", "ParityImages", "ParityMeter", "Reference", "check_floor"]
