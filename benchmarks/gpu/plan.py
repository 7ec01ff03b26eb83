"""What is measured: every contender with its operations, in the order in which they have their turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PARTS = (("encoder", "device"), ("quantizer", "device"), ("decoder", "device"))
HOST = (("encode", "host"), ("decode", "host"))
DLPACK = (("encode", "dlpack"), ("decode", "dlpack"))
QUANTIZER = (("quantizer", "device"),)


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
    """All of them. A quantizer is float32 in every precision, so only fp32 measures it."""
    for precision in precisions:
        yield Contender("torch", "torch-eager", precision, _trim((*PARTS, *HOST), precision))
    yield Contender("quantizers", "textbook", "fp32", QUANTIZER)
    yield Contender("quantizers", "folded-torch", "fp32", QUANTIZER)
    yield Contender("cuda", "cuda-sm80", "fp32", QUANTIZER)
    yield Contender("cuda", "cuda-sm90", "fp32", QUANTIZER)
    for family in ("onnxruntime", "tensorrt-rtx", "tensorrt"):
        for precision in precisions:
            yield Contender(family, family, precision, _trim((*PARTS, *HOST, *DLPACK), precision))
    for precision in precisions:
        # The fastest encoder and decoder there is, with the fused kernel between them.
        yield Contender("best", "best+cuda-sm80", precision, (*HOST, *DLPACK))
    yield Contender("compile", "textbook-compiled", "fp32", QUANTIZER)
    for precision in reversed(precisions):
        yield Contender("compile", "torch-compile", precision, _trim((*PARTS, *HOST), precision))


def _trim(operations: tuple[tuple[str, str], ...], precision: str) -> tuple[tuple[str, str], ...]:
    return tuple(found for found in operations if precision == "fp32" or found[0] != "quantizer")


def families(precisions: Sequence[str]) -> tuple[str, ...]:
    """In order."""
    return tuple(dict.fromkeys(contender.family for contender in contenders(precisions)))
