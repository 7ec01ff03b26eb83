"""The work of a graph is PyTorch's own count of it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_export.flops import graph_flops
from coda_export.folding.modules import FoldedEncoder


def count(module: torch.nn.Module, *inputs: torch.Tensor) -> int:
    # PyTorch does not count its fused attention on the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_vae_s_own_work(tiny_bundle: Path, tiny_folder: Path, precision: str) -> None:
    folded = fold_tokenizer(CodaTokenizer.from_pretrained(tiny_folder))
    encoder = count(FoldedEncoder(folded.encoder.encoder), torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    assert graph_flops(onnx.load(tiny_bundle / f"encoder.{precision}.onnx")) == encoder
    decoder = count(folded.decoder, torch.zeros(1, folded.spec.num_tokens, dtype=torch.int32))
    assert graph_flops(onnx.load(tiny_bundle / f"decoder.{precision}.onnx")) == decoder


def test_it_stands_in_the_manifest(tiny_bundle: Path) -> None:
    data = json.loads((tiny_bundle / "manifest.json").read_text())
    flops = data["provenance"]["flops"]
    assert set(flops) == {"encoder", "quantizer", "decoder"}
    assert flops["encoder"] == graph_flops(onnx.load(tiny_bundle / "encoder.fp32.onnx"))
    assert flops["quantizer"] == 2 * 103 * 64 * 5  # tokens, codes, features


def test_a_shape_that_is_not_known() -> None:
    node = helper.make_node("MatMul", ["x", "y"], ["z"])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "n"]) for name in ("x", "y", "z")]
    model = helper.make_model(helper.make_graph([node], "g", infos[:2], infos[2:]))
    with pytest.raises(ValueError, match="is not known"):
        graph_flops(model)
