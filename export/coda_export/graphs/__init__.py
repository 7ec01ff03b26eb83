"""ONNX graphs of the three folded parts."""

from coda_export.graphs.quantizer import QUANTIZER_OPSET, quantizer_graph
from coda_export.graphs.vae import decoder_graph, encoder_graph, graph_opset

__all__ = ["QUANTIZER_OPSET", "decoder_graph", "encoder_graph", "graph_opset", "quantizer_graph"]
