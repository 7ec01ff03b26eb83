"""Graphs of tiny tokenizers, each exported once, and graphs with one thing wrong in them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_export.graphs import decoder_graph, encoder_graph
from coda_export.int8 import quantized_graph
from tests import tiny_tokenizers

Array = NDArray[Any]


@functools.cache
def tokenizer(family: str) -> CodaTokenizer:
    """A tiny tokenizer; not to be changed."""
    return tiny_tokenizers.make(family)


@functools.cache
def graph(family: str, part: str, precision: str = "fp32") -> onnx.ModelProto:
    """A part's graph; not to be changed."""
    if precision == "int8":
        return quantized_graph(graph(family, part), given(part, tokenizer(family)))
    return {"encoder": encoder_graph, "decoder": decoder_graph}[part](fold_tokenizer(tokenizer(family)), precision, 20)


def given(part: str, tokenizer: CodaTokenizer, count: int = 4) -> Array:
    """What a part of the tokenizer takes, for some images."""
    images = tiny_tokenizers.images(count).numpy()
    if part == "encoder":
        return images
    reference = TorchReference(tokenizer)
    return reference.encode(reference.latent(images))


def changed(model: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> onnx.ModelProto:
    """The same graph with another constant."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = [tensor for tensor in copy.graph.initializer if tensor.name == name]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(array.copy()), array.dtype), name))
    return copy


def one_weight(array: Array) -> Array:
    """The array with its largest weight negated."""
    array.flat[np.abs(array).argmax()] *= -1
    return array
