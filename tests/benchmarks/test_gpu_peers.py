"""Peers that may leave a part of their work to another library: how much they leave is told. None of them runs here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from torch.fx.passes.split_module import split_module

from benchmarks.gpu.bundle_runs import TensorrtProvider
from benchmarks.gpu.torch_tensorrt_runs import _Decoder, _Encoder, _library, nodes_of
from coda_deploy.tokenizer.pixels import from_pixels
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime.session import OrtSession
from coda_runtime.errors import BackendError, CodaError
from coda_runtime.format.bundle import Bundle
from tests import tiny_tokenizers


def test_nodes_are_counted_by_provider(tiny_bundle: Path) -> None:
    """Azure's provider stands for one that takes nothing: what it leaves shows on the CPU's."""
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        tiny_bundle / "encoder.fp32.onnx", settings, providers=["AzureExecutionProvider", "CPUExecutionProvider"]
    )
    (found,) = OrtSession(onnxruntime, session, "cpu").nodes().items()
    assert found[0] == "CPUExecutionProvider"
    assert found[1] > 20


def test_without_tensorrt_the_provider_is_not_replaced_by_another(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    (artifact,) = bundle.manifest.find("encoder", format="onnx", precision="fp32")
    provider = TensorrtProvider(tmp_path)
    with pytest.raises(CodaError, match="Tensorrt"):
        provider.load(bundle, artifact, LoadOptions("cpu"))
    assert provider.placed() == {}


def test_what_is_left_to_pytorch_is_counted() -> None:
    class TorchTensorRTModule(nn.Module):  # as the library calls its engines
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Three(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.sin(x) + 1).cos()

    graph = torch.export.export(Three(), (torch.ones(2),), strict=False).module()
    assert isinstance(graph, torch.fx.GraphModule)
    assert nodes_of(graph) == {"TensorRT engines": 0, "PyTorch": 4}, "nothing was converted"
    parts = {"sin": 0, "add": 0, "relu": 1, "cos": 1}
    # Export's own check of the input stays with the first part.
    split = split_module(graph, graph, lambda node: parts.get(node.name, 0))
    assert nodes_of(split) == {"TensorRT engines": 0, "PyTorch": 4}
    split.submod_0 = TorchTensorRTModule()
    assert nodes_of(split) == {"TensorRT engines": 1, "PyTorch": 2}
    split.submod_1 = TorchTensorRTModule()
    assert nodes_of(split) == {"TensorRT engines": 2, "PyTorch": 0}


def test_the_networks_are_the_tokenizer_s() -> None:
    tokenizer = tiny_tokenizers.make()
    size = tokenizer.spec.image_size
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latent = tokenizer.encode_latent(images)
        exported = torch.export.export(_Encoder(tokenizer), (from_pixels(images),), strict=False).module()
        assert torch.allclose(exported(from_pixels(images)), latent, atol=1e-5)
        exported = torch.export.export(_Decoder(tokenizer), (latent,), strict=False).module()
        assert torch.allclose(exported(latent), tokenizer.decode_latent(latent), atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("torch_tensorrt") is not None, reason="it is installed")
def test_where_it_is_missing_it_says_how_to_install_it() -> None:
    with pytest.raises(BackendError, match=r"torch_tensorrt is not installed; pip install torch-tensorrt==2\.\d+\.\*"):
        _library(torch.device("cuda"))
