"""Encoder and decoder graphs of every family of VAE: contract, batches, tables stored once, the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import coda_export
from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.tokenizer.pixels import to_pixels
from coda_export.graphs import decoder_graph, encoder_graph, graph_opset
from coda_runtime.format.bundle import Bundle
from tests.export import onnx_tools
from tests.tiny_tokenizers import images, make

pytestmark = pytest.mark.numeric

SAMPLE_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


@pytest.fixture(scope="module", params=["sd", "sdxl", "flux", "mar"])
def tok(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CodaTokenizer:
    """As it is exported: made from a VAE, saved, and read again."""
    folder = tmp_path_factory.mktemp("tokenizers") / request.param
    make(request.param).save_pretrained(folder)
    return CodaTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def graphs(tok: CodaTokenizer, tiny_bundle: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Encoder and decoder; one family's come from the bundle that the session has exported."""
    if tok.spec == Bundle.open(tiny_bundle).spec:
        return onnx.load(tiny_bundle / "encoder.fp32.onnx"), onnx.load(tiny_bundle / "decoder.fp32.onnx")
    folded = fold_tokenizer(tok)
    return encoder_graph(folded, "fp32", 20), decoder_graph(folded, "fp32", 20)


@pytest.fixture
def encoder(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> onnx.ModelProto:
    return graphs[0]


@pytest.fixture
def decoder(graphs: tuple[onnx.ModelProto, onnx.ModelProto]) -> onnx.ModelProto:
    return graphs[1]


@pytest.mark.parametrize("batch", [1, 2, 5, 70])
def test_latents(tok: CodaTokenizer, encoder: onnx.ModelProto, batch: int) -> None:
    pictures = images(batch)
    latent = onnx_tools.run(encoder, pictures.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(latent, tok.encode_latent(pictures).numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 5, 70])
def test_pixels(tok: CodaTokenizer, decoder: onnx.ModelProto, batch: int) -> None:
    ids = tok.encode(images(batch))
    expected = to_pixels(tok.decode(ids)).numpy().astype(int)
    pixels = onnx_tools.run(decoder, ids.numpy())
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels == expected).mean() > 0.99


def test_the_null_token(tok: CodaTokenizer, decoder: onnx.ModelProto) -> None:
    ids = tok.encode(images())
    padded = ids.clone()
    padded[:, 14:] = tok.spec.vocab_size
    expected = to_pixels(tok.decode(ids[:, :14])).numpy().astype(int)
    assert np.abs(onnx_tools.run(decoder, padded.numpy()) - expected).max() <= 1


def test_contract(tok: CodaTokenizer, encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> None:
    channels = tok.spec.latent_channels
    assert onnx_tools.signature(encoder) == [
        ("image", "UINT8", ["batch", 32, 32, 3]),
        ("latent", "FLOAT", ["batch", channels, 8, 8]),
    ]
    assert onnx_tools.signature(decoder) == [
        ("ids", "INT32", ["batch", 103]),
        ("image", "UINT8", ["batch", 32, 32, 3]),
    ]
    for model in (encoder, decoder):
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 20)}
        assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
        assert not model.functions
        # PyTorch notes its stack traces on every node.
        assert str(Path(coda_export.__file__).parent).encode() not in model.SerializeToString()


def test_bf16_has_no_normalisation_that_onnxruntime_runs_on_the_cpu() -> None:
    """ONNX changed InstanceNormalization at opset 22, and onnxruntime's CUDA kernel is that of opset 6."""
    model = decoder_graph(fold_tokenizer(make("sd")), "bf16", 20)
    kinds = {node.op_type for node in model.graph.node}
    assert "GroupNormalization" in kinds
    assert "InstanceNormalization" not in kinds
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [graph_opset("bf16", 20)] == [22]


def test_each_table_is_stored_once(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> None:
    for model in (encoder, decoder):
        contents = list(onnx_tools.tables(model).values())
        assert len(contents) == len(set(contents)) > 5


@pytest.mark.slow
def test_each_table_is_stored_once_at_the_sample_s_shape() -> None:
    """Ten scales over a latent of 16 x 16, whose matrices are small: far fewer bytes than usual are let through."""
    folded = fold_tokenizer(make("flux", vocab_size=4096, scales=SAMPLE_SCALES, image_size=64))
    model = decoder_graph(folded, "fp32", 20)
    contents = list(onnx_tools.tables(model, at_least=256).values())
    assert len(contents) == len(set(contents)) > 5
    weights = sum(p.numel() for p in folded.decoder.parameters()) * 4
    assert len(model.SerializeToString()) < weights + 150_000
