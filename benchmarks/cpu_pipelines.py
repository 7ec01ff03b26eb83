"""Pipelines from image to ids and back on a CPU: by hand in PyTorch and ONNX, and coda's runtime.

A pipeline takes and gives numpy arrays: uint8 [B, H, W, 3] and int32 [B, L], with the B it was made for.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import coda_runtime
from benchmarks import cpu_by_hand
from benchmarks.bench_quantizer import textbook, textbook_rows
from benchmarks.gpu.shapes import images, make_tokenizer
from coda_deploy import CodaTokenizer, photographs
from coda_deploy.export import export_tokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.tokenizer.pixels import to_pixels
from coda_export import Threshold
from coda_runtime.format.parts import IDS, IMAGE
from coda_runtime.format.precision import PRECISIONS

Encode = Callable[[NDArray[np.uint8]], NDArray[np.int32]]
Decode = Callable[[NDArray[np.int32]], NDArray[np.uint8]]

CHANNELS_FIRST = "textbook PyTorch, channels first"
ROWS = "textbook PyTorch, rows"
FOLDED = "folded modules, PyTorch"
COMPILED = "textbook PyTorch, torch.compile"
NAIVE = "plain torch.onnx.export, onnxruntime"
AUTOCAST = "textbook PyTorch, bf16 autocast, channels last"
TORCH_INT8 = "PyTorch int8 by torchao, compiled"
ORT_BY_HAND = "the VAE by hand, onnxruntime"
ORT_INT8_BY_HAND = "the VAE by hand, quantize_static, onnxruntime"
OPENVINO_BY_HAND = "the VAE by hand, OpenVINO as it comes"
CODA = "coda_runtime fp32, onnxruntime"
CODA_OPENVINO = "coda_runtime fp32, OpenVINO"
CODA_BF16 = "coda_runtime bf16, OpenVINO"
CODA_INT8 = "coda_runtime int8, onnxruntime"
CODA_INT8_OPENVINO = "coda_runtime int8, OpenVINO"

EXPORTED = ("fp32", "bf16", "int8")
"""The precisions of the bundles."""


@dataclass(frozen=True)
class Pipeline:
    """One way to encode and decode."""

    encode: Encode
    decode: Decode


class Shape:
    """A tokenizer, its bundle and its graphs, which are kept in ``work`` for the next run."""

    def __init__(self, name: str, batch: int, work: Path) -> None:
        self.name, self.batch, self.work = name, batch, work / name
        self.work.mkdir(parents=True, exist_ok=True)
        self.tokenizer: CodaTokenizer = make_tokenizer(name)
        self.images = images(self.tokenizer.spec.image_size)

    @property
    def bundle(self) -> Path:
        """Exported in fp32, bf16 and int8. Random weights promise no parity, so they are held to no threshold."""
        out = self.work / "bundle"
        if not out.exists():
            # Parity is measured on one photograph: it is no figure of this benchmark, and takes minutes otherwise.
            one, folder = self.work / "parity", self.work / "tokenizer"
            one.mkdir(exist_ok=True)
            shutil.copy(photographs.paths()[0], one)
            self.tokenizer.save_pretrained(folder)
            none = dict.fromkeys(PRECISIONS, Threshold(0.0, 0.0))
            export_tokenizer(folder, out, precisions=EXPORTED, thresholds=none, images=one)
        return out


class _Encode(nn.Module):
    def __init__(self, tokenizer: CodaTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, image: Tensor) -> Tensor:
        latent = self.tokenizer.encode_latent(image)
        # Without its inference mode, which the exporter does not trace.
        return cast(Tensor, inspect.unwrap(textbook_rows)(self.tokenizer.quantizer, latent))


class _Decode(nn.Module):
    def __init__(self, tokenizer: CodaTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, ids: Tensor) -> Tensor:
        # int64: exported with int32, PyTorch's indexing makes a graph that onnxruntime refuses.
        return to_pixels(self.tokenizer.decode_latent(self.tokenizer.quantizer.embed(ids.long())))


def torch_pipeline(encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]) -> Pipeline:
    """Return the pipeline of two functions of tensors, without gradients."""

    def through(run: Callable[[Tensor], Tensor], given: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            return run(torch.from_numpy(given)).numpy()

    return Pipeline(lambda given: through(encode, given), lambda given: through(decode, given))


def _channels_first(shape: Shape) -> Iterator[Pipeline]:
    tokenizer = shape.tokenizer

    def encode(image: Tensor) -> Tensor:
        # As a loader for training gives them, with each channel's plane for itself.
        pixels = (image.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
        return textbook(tokenizer.quantizer, tokenizer.encode_latent(pixels))

    yield torch_pipeline(encode, _Decode(tokenizer))


def _rows(shape: Shape) -> Iterator[Pipeline]:
    yield torch_pipeline(_Encode(shape.tokenizer), _Decode(shape.tokenizer))


def _folded(shape: Shape) -> Iterator[Pipeline]:
    folded = fold_tokenizer(shape.tokenizer)
    yield torch_pipeline(lambda image: folded.quantizer(folded.encoder(image)), folded.decoder)


def _compiled(shape: Shape) -> Iterator[Pipeline]:
    """Compile the VAE alone: the textbook's quantizer, unrolled over its scales, takes the compiler ten minutes."""
    torch._dynamo.reset()
    options: dict[str, Any] = {"freezing": True}  # weights laid out for oneDNN, once
    tokenizer = shape.tokenizer
    encode_latent = torch.compile(tokenizer.encode_latent, dynamic=False, options=options)
    decode_latent = torch.compile(tokenizer.decode_latent, dynamic=False, options=options)
    yield torch_pipeline(
        lambda image: textbook_rows(tokenizer.quantizer, encode_latent(image)),
        lambda ids: to_pixels(decode_latent(tokenizer.quantizer.embed(ids))),
    )


def _naive(shape: Shape) -> Iterator[Pipeline]:
    spec = shape.tokenizer.spec
    image = torch.zeros(IMAGE.shape(spec, shape.batch), dtype=torch.uint8)
    ids = torch.zeros(IDS.shape(spec, shape.batch), dtype=torch.int32)
    runs = []
    for module, example in ((_Encode(shape.tokenizer), image), (_Decode(shape.tokenizer), ids)):
        file = shape.work / f"naive-{type(module).__name__[1:].lower()}-{shape.batch}.onnx"
        if not file.exists():
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                warnings.simplefilter("ignore")
                made = torch.onnx.export(module.eval(), (example,), dynamo=True, verbose=False)
                assert made is not None
                made.save(file, external_data=True)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        runs.append(_session_run(session))
    yield Pipeline(runs[0], runs[1])


def _session_run(session: onnxruntime.InferenceSession) -> Callable[[NDArray[Any]], NDArray[Any]]:
    name = session.get_inputs()[0].name
    return lambda given: np.asarray(session.run(None, {name: given})[0])


def _autocast(shape: Shape) -> Iterator[Pipeline]:
    tokenizer = copy.deepcopy(shape.tokenizer)
    tokenizer.vae.to(memory_format=torch.channels_last)

    def encode(image: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            latent = tokenizer.encode_latent(image)
        return textbook_rows(tokenizer.quantizer, latent.float())

    def decode(ids: Tensor) -> Tensor:
        latent = tokenizer.quantizer.embed(ids)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = tokenizer.decode_latent(latent)
        return to_pixels(decoded.float())

    yield torch_pipeline(encode, decode)


def _coda(precision: str, backend: str) -> Callable[[Shape], Iterator[Pipeline]]:
    def pipeline(shape: Shape) -> Iterator[Pipeline]:
        with coda_runtime.load(shape.bundle, device="cpu", backend=backend, precision=precision) as tokenizer:
            yield Pipeline(tokenizer.encode, tokenizer.decode)

    return pipeline


PIPELINES: dict[str, Callable[[Shape], Iterator[Pipeline]]] = {
    CHANNELS_FIRST: _channels_first,
    ROWS: _rows,
    FOLDED: _folded,
    AUTOCAST: _autocast,
    COMPILED: _compiled,
    TORCH_INT8: cpu_by_hand.torch_int8,
    NAIVE: _naive,
    ORT_BY_HAND: cpu_by_hand.onnxruntime_by_hand,
    ORT_INT8_BY_HAND: cpu_by_hand.onnxruntime_int8_by_hand,
    OPENVINO_BY_HAND: cpu_by_hand.openvino_by_hand,
    CODA: _coda("fp32", "onnxruntime"),
    CODA_OPENVINO: _coda("fp32", "openvino"),
    CODA_BF16: _coda("bf16", "openvino"),
    CODA_INT8: _coda("int8", "onnxruntime"),
    CODA_INT8_OPENVINO: _coda("int8", "openvino"),
}

DEFAULT = tuple(name for name in PIPELINES if name not in (ROWS, FOLDED, NAIVE))
"""What is measured unless others are named: those are other forms of what stands here already."""


def prepare(shape: Shape) -> None:
    """Export all that the pipelines load: a run after that only measures."""
    print(f"{shape.name}: {shape.bundle}", flush=True)
    with contextmanager(cpu_by_hand.onnxruntime_int8_by_hand)(shape):
        pass
