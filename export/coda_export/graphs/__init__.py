"""ONNX graphs of the three folded parts, and of the first two in one."""

from coda_export.graphs.quantizer import QUANTIZER_OPSET, quantizer_graph
from coda_export.graphs.single import encode_graph
from coda_export.graphs.vae import decoder_graph, encoder_graph, graph_opset

__all__ = ["QUANTIZER_OPSET", "decoder_graph", "encode_graph", "encoder_graph", "graph_opset", "quantizer_graph"]
