"""What one would wire up by hand for a CPU without this project: the VAE alone lowered by a library, its defaults kept.

The VAE has its LoRA merged, as anybody would; tokens are searched by the paper's formulas in PyTorch.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.bench_quantizer import textbook_rows
from coda_deploy.tokenizer.lora import merge_lora
from coda_deploy.tokenizer.model import a_channel
from coda_deploy.tokenizer.pixels import from_pixels, to_pixels
from coda_runtime.format.parts import LATENT

if TYPE_CHECKING:
    from benchmarks.cpu_pipelines import Pipeline, Shape

CALIBRATION = 4
"""Photographs that a library's quantizer sees: the last ones, never the one that is timed."""

Vae = Callable[[Tensor], Tensor]


class EncodeLatent(nn.Module):
    """pixels float32 [B, 3, H, W] in [-1, 1] -> the posterior's mode [B, C, h, w]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels).latent_dist.mode()  # type: ignore[no-any-return]


class DecodeLatent(nn.Module):
    """latent [B, C, h, w] -> pixels float32 [B, 3, H, W]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent).sample  # type: ignore[no-any-return]


def halves(shape: Shape) -> list[tuple[str, nn.Module, Tensor]]:
    """Return name, module and an example of both halves of the VAE, merged."""
    vae = copy.deepcopy(shape.tokenizer.vae)
    merge_lora(vae)
    spec = shape.tokenizer.spec
    return [
        ("encoder", EncodeLatent(vae).eval(), torch.zeros(shape.batch, 3, *spec.image_shape)),
        (
            "decoder",
            DecodeLatent(vae).eval(),
            torch.zeros(LATENT.shape(spec, shape.batch)),
        ),
    ]


def around(shape: Shape, encode: Vae, decode: Vae) -> Pipeline:
    """Return the pipeline around both halves of a VAE: scale and shift, the search, pixels."""
    from benchmarks.cpu_pipelines import torch_pipeline

    quantizer, (scale, shift) = shape.tokenizer.quantizer, statistics(shape)

    def to_ids(images: Tensor) -> Tensor:
        mode = encode(from_pixels(images).contiguous())
        return textbook_rows(quantizer, scale * (mode - shift))

    def to_images(ids: Tensor) -> Tensor:
        return to_pixels(decode(quantizer.embed(ids) / scale + shift))

    return torch_pipeline(to_ids, to_images)


def statistics(shape: Shape) -> tuple[float | Tensor, float | Tensor]:
    """Return what the latent is scaled and shifted by."""
    config, like = shape.tokenizer.config, torch.zeros(())
    return a_channel(config.latent_scale, like), a_channel(config.latent_shift, like)


def vae_graphs(shape: Shape) -> list[Path]:
    """Return the halves as ONNX files, exported by PyTorch's defaults and kept for the next run."""
    files = []
    for name, module, example in halves(shape):
        file = shape.work / f"vae-{name}-{shape.batch}.onnx"
        if not file.exists():
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                warnings.simplefilter("ignore")
                made = torch.onnx.export(module, (example,), dynamo=True, verbose=False)
                assert made is not None
                made.save(file)  # the halves are below the two gigabytes of one file
        files.append(file)
    return files


def calibration(shape: Shape) -> list[NDArray[np.float32]]:
    """Return what each half is calibrated on: pixels, and the tokenizer's own quantised latents."""
    images = torch.from_numpy(shape.images[-CALIBRATION:])
    quantizer, (scale, shift) = shape.tokenizer.quantizer, statistics(shape)
    with torch.no_grad():
        ids = shape.tokenizer.encode(images)
        latent = quantizer.embed(ids) / scale + shift
    return [from_pixels(images).contiguous().numpy(), latent.numpy()]


def onnxruntime_by_hand(shape: Shape) -> Iterator[Pipeline]:
    """Run the VAE's graphs on onnxruntime."""
    yield around(shape, *(_session(file) for file in vae_graphs(shape)))


def onnxruntime_int8_by_hand(shape: Shape) -> Iterator[Pipeline]:
    """Run them quantised by `quantize_static`: convolutions alone, for with every operator it fails on MAR's VAE."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str, rows: NDArray[np.float32]) -> None:
            self.left = [{name: row[None]} for row in rows]

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return self.left.pop() if self.left else None

    logging.getLogger().setLevel(logging.ERROR)
    files = []
    missing = [f for f in vae_graphs(shape) if not _int8(f).exists()]
    given = calibration(shape) if missing else [np.empty(0, np.float32)] * 2
    for file, rows in zip(vae_graphs(shape), given, strict=True):
        if not _int8(file).exists():
            name = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_inputs()[0].name
            whole = file.with_suffix(".pre.onnx")
            quant_pre_process(file, whole, skip_symbolic_shape=True)  # as onnxruntime's guide has it
            quantize_static(whole, _int8(file), Reader(name, rows), per_channel=True, op_types_to_quantize=["Conv"])
            whole.unlink()
        files.append(_int8(file))
    yield around(shape, *(_session(file) for file in files))


def _int8(file: Path) -> Path:
    return file.with_name(f"{file.stem}-int8.onnx")


def _session(file: Path) -> Vae:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda given: torch.from_numpy(session.run(None, {name: given.numpy()})[0])


def openvino_by_hand(shape: Shape) -> Iterator[Pipeline]:
    """Run the VAE's graphs on OpenVINO with its defaults, which are bf16 where the processor has it."""
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    import openvino  # type: ignore[import-untyped]

    core = openvino.Core()

    def load(file: Path) -> Vae:
        request = core.compile_model(core.read_model(file), "CPU").create_infer_request()
        return lambda given: torch.from_numpy(np.array(request.infer([given.numpy()])[0]))

    yield around(shape, *(load(file) for file in vae_graphs(shape)))


def torch_int8(shape: Shape) -> Iterator[Pipeline]:
    """Run the VAE quantised by torchao's PT2E flow for x86 and compiled: PyTorch's own way to int8 on a CPU."""
    from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    lowered: list[Vae] = []
    for (_, module, example), rows in zip(halves(shape), calibration(shape), strict=True):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            prepared = prepare_pt2e(torch.export.export(module, (example,)).module(), quantizer)
            for row in torch.from_numpy(rows):
                prepared(row[None].expand_as(example))
            made = lower_pt2e_quantized_to_x86(convert_pt2e(prepared), (example,))
            lowered.append(torch.compile(made, dynamic=False))
    yield around(shape, *lowered)
