"""The folded parts against the unfolded tokenizer: every family of VAE, every norm, to the border of the image."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.pixels import to_pixels
from coda_export.folding import Folded
from tests import textbook
from tests.tiny_tokenizers import SCALES, VAES, images, make

pytestmark = pytest.mark.numeric

PREFIXES = (1, 5, 14, 39)


def decoded(folded: Folded, ids: Tensor) -> Tensor:
    """What the folded decoder computes before it becomes bytes."""
    latent = folded.decoder.embed(ids)
    if folded.decoder.offset is not None:
        latent = latent + folded.decoder.offset
    with torch.no_grad():
        return folded.decoder.decoder(latent)


@pytest.fixture(scope="module", params=VAES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tok(family: str) -> CodaTokenizer:
    return make(family)


@pytest.fixture(scope="module")
def folded(tok: CodaTokenizer) -> Folded:
    return fold_tokenizer(tok)


def test_encoder(tok: CodaTokenizer, folded: Folded) -> None:
    with torch.no_grad():
        torch.testing.assert_close(folded.encoder(images()), tok.encode_latent(images()), atol=1e-4, rtol=1e-4)


def test_decoder_and_its_border(tok: CodaTokenizer, folded: Folded) -> None:
    ids = tok.encode(images())
    expected, found = tok.decode(ids), decoded(folded, ids)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # Said apart: a shift folded into a convolution that pads with zeros would be wrong here alone.
    for edge in (np.s_[..., 0, :], np.s_[..., -1, :], np.s_[..., :, 0], np.s_[..., :, -1]):
        torch.testing.assert_close(found[edge], expected[edge], atol=1e-4, rtol=1e-4)


def test_pixels(tok: CodaTokenizer, folded: Folded) -> None:
    ids = tok.encode(images())
    with torch.no_grad():
        pixels = folded.decoder(ids)
    expected = to_pixels(tok.decode(ids))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == expected.shape == (2, 32, 32, 3)
    assert (pixels.int() - expected.int()).abs().max() <= 1
    assert (pixels == expected).float().mean() > 0.99
    assert len(pixels.unique()) > 50, "a picture of few levels proves little"


@pytest.mark.parametrize("tokens", PREFIXES)
def test_null_tokens_stand_for_the_scales_that_are_missing(tok: CodaTokenizer, folded: Folded, tokens: int) -> None:
    ids = tok.encode(images())
    padded = ids.clone()
    padded[:, tokens:] = tok.spec.vocab_size
    torch.testing.assert_close(folded.decoder.embed(padded), tok.embed(ids[:, :tokens]).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded(folded, padded), tok.decode(ids[:, :tokens]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
@pytest.mark.parametrize("seed", range(4))
def test_quantizer_for_every_norm(norm: NormType, seed: int) -> None:
    tok = make(norm=norm, seed=seed)
    with torch.no_grad():
        for name, parameter in tok.quantizer.search.named_parameters():
            if "bias" in name:
                parameter.mul_(10)
    latent = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    ids = fold_tokenizer(tok).quantizer(latent)
    assert ids.dtype == torch.int32
    exact = copy.deepcopy(tok.quantizer).requires_grad_(False).double()
    assert float(textbook.regret(exact, latent.double(), ids).max()) < 1e-5
    assert float(textbook.regret(exact, latent.double(), (ids + 1) % 64).max()) > 1e-5


def test_nothing_of_the_tokenizer_is_changed(family: str) -> None:
    tok = make(family)
    before = {key: tensor.clone() for key, tensor in tok.state_dict().items()}
    asked = {name: p.requires_grad for name, p in tok.named_parameters()}
    parts = fold_tokenizer(tok)
    with torch.no_grad():
        for module in (parts.encoder, parts.decoder):
            for parameter in module.parameters():
                parameter.zero_()
        parts.quantizer.search.table.zero_()
        parts.quantizer.search.values.zero_()
    assert before.keys() == tok.state_dict().keys()
    assert all(torch.equal(tensor, tok.state_dict()[key]) for key, tensor in before.items())
    assert asked == {name: p.requires_grad for name, p in tok.named_parameters()}


def test_nothing_of_training_is_left(folded: Folded) -> None:
    for module in (folded.encoder, folded.quantizer, folded.decoder):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert not any("lora" in name for name, _ in module.named_modules())
        assert {p.dtype for p in module.parameters()} <= {torch.float32}
    assert folded.spec.scales == SCALES


def test_a_tokenizer_without_lora_folds_too() -> None:
    tok = make(lora=None)
    folded = fold_tokenizer(tok)
    with torch.no_grad():
        torch.testing.assert_close(folded.encoder(images()), tok.encode_latent(images()), atol=1e-4, rtol=1e-4)


def test_the_shift_is_an_add_only_where_it_must_be() -> None:
    assert fold_tokenizer(make("flux")).decoder.offset is not None
    assert fold_tokenizer(make("shifted")).decoder.offset is None, "post_quant_conv does not pad and can take it"
    assert fold_tokenizer(make("sd")).decoder.offset is None
