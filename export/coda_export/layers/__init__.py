"""Which layer loses it: every layer of a graph beside the same layer elsewhere, and the first that leaves its bound."""

from coda_export.layers.blame import blamed, naming_the_layer
from coda_export.layers.bundle import PartLayers, check_layers, compare_bundle
from coda_export.layers.compare import Comparison, LayerRow, compare
from coda_export.layers.names import EMBEDDED, PIXELS, Layer, layers_of
from coda_export.layers.sources import Activations, GraphActivations, LayersOf, Runner, Values

__all__ = [
    "EMBEDDED",
    "PIXELS",
    "Activations",
    "Comparison",
    "GraphActivations",
    "Layer",
    "LayerRow",
    "LayersOf",
    "PartLayers",
    "Runner",
    "Values",
    "blamed",
    "check_layers",
    "compare",
    "compare_bundle",
    "layers_of",
    "naming_the_layer",
]
