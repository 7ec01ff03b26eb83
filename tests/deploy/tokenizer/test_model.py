"""CodaTokenizer: images to ids and back, what trains, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coda_deploy import CodaTokenizer, ConfigError
from coda_deploy.tokenizer.lora import lora_layers
from coda_runtime.errors import InputError
from tests import textbook
from tests.tiny_tokenizers import IMAGE_SIZE, SCALES, VAES, enliven, images, make, make_vae

pytestmark = pytest.mark.numeric

TOKENS = sum(side * side for side in SCALES)
PREFIXES = (1, 5, 14, 39, 103)


@pytest.fixture(scope="module")
def tok() -> CodaTokenizer:
    """Not to be changed."""
    return make()


def test_shapes_and_types(tok: CodaTokenizer) -> None:
    pictures = images(3)
    latent, ids = tok.encode_latent(pictures), tok.encode(pictures)
    assert (latent.dtype, tuple(latent.shape)) == (torch.float32, (3, 4, 8, 8))
    assert (ids.dtype, tuple(ids.shape)) == (torch.int32, (3, TOKENS))
    assert 0 <= int(ids.min()) <= int(ids.max()) < 64
    assert len(ids.unique()) >= 5, "a test where one code takes all proves little"
    embedded, decoded = tok.embed(ids), tok.decode(ids)
    assert (embedded.dtype, tuple(embedded.shape)) == (torch.float32, (3, 4, 8, 8))
    assert (decoded.dtype, tuple(decoded.shape)) == (torch.float32, (3, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert not decoded.requires_grad


def test_bytes_and_floats_are_the_same_image(tok: CodaTokenizer) -> None:
    pictures = images()
    floats = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(tok.encode_latent(pictures), tok.encode_latent(floats))
    assert torch.equal(tok.encode(pictures), tok.encode(floats))


def test_encode_is_deterministic_in_any_mode(tok: CodaTokenizer) -> None:
    torch.manual_seed(1)
    first = tok.encode(images())
    torch.manual_seed(2)
    assert torch.equal(tok.encode(images()), first)
    try:
        assert torch.equal(tok.train().encode(images()), first)
    finally:
        tok.eval()


def test_images_do_not_influence_each_other(tok: CodaTokenizer) -> None:
    pictures = images(4)
    alone = torch.cat([tok.encode(picture[None]) for picture in pictures])
    # Rounding differs with the batch; ids may only at near ties.
    exact = make().quantizer.requires_grad_(False).double()
    latent = tok.encode_latent(pictures).detach().double()
    assert float(textbook.regret(exact, latent, alone).max()) < 1e-5
    assert float(textbook.regret(exact, latent, tok.encode(pictures)).max()) < 1e-5


def test_latent_is_scaled_and_shifted() -> None:
    tok = make("shifted")
    pixels = images().permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        mean = tok.vae.encode(pixels).latent_dist.mean
        latent = tok.encode_latent(images())
        torch.testing.assert_close(latent, 0.7 * (mean + 0.9))
        torch.testing.assert_close(tok.decode_latent(latent), tok.vae.decode(mean).sample, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tokens", PREFIXES)
def test_a_prefix_of_the_scales_decodes(tok: CodaTokenizer, tokens: int) -> None:
    ids = tok.encode(images())[:, :tokens]
    with torch.no_grad():
        expected = tok.decode_latent(tok.embed(ids))
    assert torch.equal(tok.decode(ids), expected)
    if tokens < TOKENS:
        assert not torch.equal(tok.decode(ids), tok.decode(tok.encode(images())))


def test_ids_of_any_whole_number_type(tok: CodaTokenizer) -> None:
    ids = tok.encode(images())
    for dtype in (torch.int64, torch.int16, torch.uint8):
        assert torch.equal(tok.decode(ids.to(dtype)), tok.decode(ids))


def test_embed_is_forward_s_quantised_latent(tok: CodaTokenizer) -> None:
    with torch.no_grad():
        out = tok(images())
        torch.testing.assert_close(tok.embed(out.ids), out.quantized)
    assert torch.equal(out.ids, tok.encode(images()))
    assert torch.equal(out.latent, tok.encode_latent(images()))
    torch.testing.assert_close(tok.decode(out.ids), out.reconstruction, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, TOKENS), r"whole numbers \[B, n\], found torch.float32 \[2, 103\]"),
        (torch.zeros(2, TOKENS, dtype=torch.bool), "found torch.bool"),
        (torch.zeros(2, TOKENS, dtype=torch.complex64), "found torch.complex64"),
        (torch.zeros(TOKENS, dtype=torch.int32), r"found torch.int32 \[103\]"),
        (torch.zeros(1, 2, 2, dtype=torch.int32), r"found torch.int32 \[1, 2, 2\]"),
        (torch.zeros(2, 0, dtype=torch.int32), r"0 ids are not a whole number of scales: expected one of \[1, 5, 14,"),
        (torch.zeros(2, 6, dtype=torch.int32), "6 ids are not a whole number of scales"),
        (torch.zeros(2, TOKENS + 1, dtype=torch.int32), "104 ids are not a whole number"),
        (torch.full((2, 1), -1), r"must lie in \[0, 64\), found -1 to -1"),
        (torch.tensor([[3], [64]]), r"must lie in \[0, 64\), found 3 to 64"),
    ],
    ids=str,
)
def test_ids_that_are_rejected(tok: CodaTokenizer, ids: torch.Tensor, message: str) -> None:
    for call in (tok.decode, tok.embed):
        with pytest.raises(InputError, match=message):
            call(ids)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (
            torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
            r"uint8 images must be \[B, 32, 32, 3\], found \[1, 3, 32, 32\]",
        ),
        (torch.zeros(32, 32, 3, dtype=torch.uint8), r"found \[32, 32, 3\]"),
        (torch.zeros(1, 28, 32, 3, dtype=torch.uint8), r"found \[1, 28, 32, 3\]"),
        (
            torch.zeros(1, 32, 32, 3),
            r"float \[B, 3, 32, 32\] in \[-1, 1\] or uint8.*found torch.float32 \[1, 32, 32, 3\]",
        ),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int32), "found torch.int32"),
        (torch.zeros(1, 1, 32, 32), r"found torch.float32 \[1, 1, 32, 32\]"),
    ],
    ids=str,
)
def test_images_that_are_rejected(tok: CodaTokenizer, pictures: torch.Tensor, message: str) -> None:
    for call in (tok.encode, tok.encode_latent, tok):
        with pytest.raises(InputError, match=message):
            call(pictures)


@pytest.mark.parametrize("family", VAES)
def test_fresh_lora_changes_nothing(family: str) -> None:
    plain, adapted = make(family, alive=False, lora=None), make(family, alive=False)
    adapted.quantizer.load_state_dict(plain.quantizer.state_dict())
    with torch.no_grad():
        latent = adapted.encode_latent(images())
        torch.testing.assert_close(latent, plain.encode_latent(images()), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(adapted.decode_latent(latent), plain.decode_latent(latent), atol=1e-6, rtol=1e-6)
    assert lora_layers(adapted)
    assert not lora_layers(plain)


def test_what_trains_is_lora_and_the_quantizer() -> None:
    tok = make()
    trained = {name for name, _ in tok.trainable()}
    assert trained == {name for name, p in tok.named_parameters() if p.requires_grad}
    assert trained == {
        name for name, _ in tok.named_parameters() if ".lora_A." in name or ".lora_B." in name or "quantizer" in name
    }
    assert {name.split(".")[1] for name in trained if name.startswith("vae.")} == {"encoder", "decoder"}
    tok.requires_grad_(True).freeze()
    assert trained == {name for name, p in tok.named_parameters() if p.requires_grad}


def test_gradients_reach_all_that_trains_and_nothing_else() -> None:
    tok = make()
    out = tok(images())
    (out.reconstruction.square().mean() + out.vq_loss + 0.05 * out.entropy_loss).backward()
    trained = dict(tok.trainable())
    for name, parameter in tok.named_parameters():
        if name in trained:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_reconstruction_alone_trains_the_encoder_through_the_search() -> None:
    tok = make()
    tok(images()).reconstruction.square().mean().backward()
    for part in ("vae.encoder", "vae.decoder", "quantizer.codebook", "quantizer.search.to_q", "quantizer.search.to_k"):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for n, p in tok.trainable() if n.startswith(part)), (
            part
        )


def test_a_first_step_moves_lora_from_zero() -> None:
    tok = make(alive=False)
    up = [p for name, p in tok.trainable() if ".lora_B." in name]
    assert not any(p.any() for p in up)
    optimizer = torch.optim.SGD([p for _, p in tok.trainable()], lr=0.1)
    tok(images()).reconstruction.square().mean().backward()
    optimizer.step()
    assert all(p.any() for p in up)


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_norm_is_taken_from_the_configuration(norm: Any) -> None:
    tok = make(norm=norm, vocab_size=32)
    keys = set(tok.quantizer.state_dict())
    assert ("search.norm_q.weight" in keys) == (norm != "none")
    assert ("search.norm_q.bias" in keys) == (norm == "layer")


def test_from_vae_takes_scaling_from_the_vae() -> None:
    assert make("flux").config.latent_scale == 0.3611
    assert make("flux").config.latent_shift == 0.1159
    assert make("sd").config.latent_shift == 0.0


def test_from_vae_reads_a_folder(tmp_path: Path) -> None:
    make_vae("sd").save_pretrained(tmp_path / "vae")
    tok = CodaTokenizer.from_vae(tmp_path / "vae", image_size=32, vocab_size=16, scales=(1, 8))
    expected = CodaTokenizer.from_vae(make_vae("sd"), image_size=32, vocab_size=16, scales=(1, 8))
    assert torch.equal(tok.eval().encode_latent(images()), expected.eval().encode_latent(images()))


def test_from_vae_without_a_vae(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} holds no diffusers VAE"):
        CodaTokenizer.from_vae(tmp_path)


def test_default_schedules() -> None:
    tok = CodaTokenizer.from_vae(make_vae("sd"), image_size=64, vocab_size=16)
    assert tok.spec.scales == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    assert CodaTokenizer.from_vae(make_vae("sd"), image_size=128, vocab_size=16).spec.num_tokens == 2240
    assert CodaTokenizer.from_vae(make_vae("sd"), image_size=32, vocab_size=16).spec.scales[-1] == 8
    with pytest.raises(ConfigError, match="must end at 8"):
        CodaTokenizer.from_vae(make_vae("sd"), image_size=32, scales=(1, 2, 4))


@pytest.mark.parametrize("family", VAES)
def test_every_family_goes_to_a_folder_and_back(tmp_path: Path, family: str) -> None:
    tok = make(family)
    tok.save_pretrained(tmp_path / "tokenizer")
    read = CodaTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert read.spec == tok.spec
    assert torch.equal(read.encode(images()), tok.encode(images()))
    enliven(tok, seed=9)
    assert not torch.equal(read.encode_latent(images()), tok.encode_latent(images()))


def test_empty_batches_and_arrays_are_rejected(tok: CodaTokenizer) -> None:
    size, tokens = tok.spec.image_size, tok.spec.num_tokens
    with pytest.raises(InputError, match="at least one image, found an empty batch"):
        tok.encode(torch.zeros(0, 3, size, size))
    with pytest.raises(InputError, match="at least one image, found list"):
        tok.encode([1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ids must be"):
        tok.decode(torch.zeros(0, tokens, dtype=torch.int32))
