"""Encoder and decoder as ONNX graphs, through PyTorch's exporter."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings

import onnx
import torch
from torch import nn

from coda_export.folding.fold import Folded
from coda_export.folding.precision import lowered
from coda_runtime.format.parts import DECODER, ENCODER, Part
from coda_runtime.format.precision import PRECISIONS
from coda_runtime.format.spec import Spec


def graph_opset(precision: str, opset: int) -> int:
    """Return the opset of a precision's encoder and decoder, where ``opset`` is asked for."""
    return max(opset, PRECISIONS[precision].min_opset)


def _export(module: nn.Module, part: Part, spec: Spec, opset: int) -> onnx.ModelProto:
    """Trace with a dynamic batch. The example has two images: with one, the batch would be taken for a constant."""
    example = torch.zeros(part.input.shape(spec, 2), dtype=getattr(torch, part.input.dtype.name))
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                input_names=[part.input.name],
                output_names=[part.output.name],
                opset_version=opset,
                # diffusers asks whether a batch is under 64, only to lay memory out: said here, since the exporter
                # would find it out by tracing twice. The graph takes any batch.
                dynamic_shapes=({0: torch.export.Dim("batch", max=63)},),
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the exporter's notes on every node: half a megabyte of stack traces, with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    return model


def encoder_graph(folded: Folded, precision: str, opset: int) -> onnx.ModelProto:
    """Return the graph from image uint8 [B, H, W, 3] to latent float32 [B, C, h, w], computed in ``precision``.

    Its opset is `graph_opset`.
    """
    module = _with(folded.encoder, encoder=lowered(folded.encoder.encoder, precision, folded.encoder.kept))
    return _export(module, ENCODER, folded.spec, graph_opset(precision, opset))


def decoder_graph(folded: Folded, precision: str, opset: int) -> onnx.ModelProto:
    """Return the graph from ids int32 [B, L] to image uint8 [B, H, W, 3]; embeds in float32, VAE in ``precision``.

    Its opset is `graph_opset`.
    """
    module = _with(folded.decoder, decoder=lowered(folded.decoder.decoder, precision, folded.decoder.kept))
    return _export(module, DECODER, folded.spec, graph_opset(precision, opset))


def _with(module: nn.Module, **changed: nn.Module) -> nn.Module:
    """Return a copy of ``module`` that shares all but the submodules named."""
    made = copy.copy(module)
    made._modules = {**module._modules, **changed}
    return made
