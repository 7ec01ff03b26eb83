"""What is measured: every contender with its operations, in the order in which they have their turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PARTS = (("encoder", "device"), ("quantizer", "device"), ("decoder", "device"))
NETWORKS = (("encoder", "device"), ("decoder", "device"))
HOST = (("encode", "host"), ("decode", "host"))
DLPACK = (("encode", "dlpack"), ("decode", "dlpack"))
QUANTIZER = (("quantizer", "device"),)
LARGEST_AT_FIRST = 32
"""Of the batches: larger ones take most of the time, and say little that these do not."""


@dataclass(frozen=True)
class Contender:
    """``operations`` are (operation, clock).

    Operations: encoder (images to latent), quantizer (latent to ids), decoder (ids to images), encode (images to ids),
    decode. Clocks: device (CUDA events, input and output on the GPU), host (numpy to numpy, wall time), dlpack (torch
    tensors on the GPU through the public API, wall time).
    """

    family: str
    name: str
    precision: str
    operations: tuple[tuple[str, str], ...]


def contenders(precisions: Sequence[str]) -> Iterator[Contender]:
    """All of them, in the order of their families: what says most comes first, what builds longest last.

    A quantizer is float32 in every precision, so only fp32 measures it.
    """
    for precision in precisions:
        yield Contender("torch", "torch-eager", precision, _trim((*PARTS, *HOST), precision))
    for precision in precisions:
        yield Contender("onnxruntime", "onnxruntime", precision, _trim((*PARTS, *HOST, *DLPACK), precision))
    yield Contender("cuda", "cuda-sm80", "fp32", QUANTIZER)
    yield Contender("cuda", "cuda-sm90", "fp32", QUANTIZER)
    for family in ("tensorrt", "tensorrt-rtx"):
        for precision in precisions:
            yield Contender(family, family, precision, _trim((*PARTS, *HOST, *DLPACK), precision))
    for precision in precisions:
        # The fastest encoder and decoder there is, with the fused kernel between them.
        yield Contender("best", "best+cuda-sm80", precision, (*HOST, *DLPACK))
    yield Contender("quantizers", "textbook", "fp32", QUANTIZER)
    yield Contender("quantizers", "folded-torch", "fp32", QUANTIZER)
    for precision in reversed(precisions):
        yield Contender("compile", "torch-compile", precision, _trim((*PARTS, *HOST), precision))
    yield Contender("compile", "textbook-compiled", "fp32", QUANTIZER)
    for precision in reversed(precisions):
        yield Contender("torch-tensorrt", "torch-tensorrt", precision, (*NETWORKS, *HOST))
    for precision in reversed(precisions):
        yield Contender("tensorrt-provider", "onnxruntime-tensorrt", precision, _trim((*PARTS, *HOST), precision))


def _trim(operations: tuple[tuple[str, str], ...], precision: str) -> tuple[tuple[str, str], ...]:
    return tuple(found for found in operations if precision == "fp32" or found[0] != "quantizer")


def families(precisions: Sequence[str]) -> tuple[str, ...]:
    """In order."""
    return tuple(dict.fromkeys(contender.family for contender in contenders(precisions)))


@dataclass(frozen=True)
class Turn:
    """A family on a shape at some batches: what one process measures."""

    shape: str
    family: str
    batches: tuple[int, ...]


def turns(shapes: Sequence[str], asked: Sequence[str], batches: Sequence[int]) -> list[Turn]:
    """In an order that is useful wherever it is cut: one shape whole, then the next, large batches last."""
    usual = tuple(sorted(batch for batch in set(batches) if batch <= LARGEST_AT_FIRST))
    large = tuple(sorted(set(batches) - set(usual)))
    return [Turn(shape, family, group) for group in (usual, large) if group for shape in shapes for family in asked]
