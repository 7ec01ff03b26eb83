"""Every family: what its configuration says, what it computes, how it learns, and that nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coda_deploy import CodaTokenizer, ConfigError, LoraConfig
from coda_deploy.families import ABILITIES, FAMILIES, USER_MODULE, family_of, family_of_module
from coda_deploy.families.autoencoder_kl_wan import AutoencoderKLQwenImage
from coda_deploy.folding import fold_tokenizer
from coda_deploy.tokenizer.lora import lora_layers
from coda_deploy.tokenizer.pixels import from_pixels, to_pixels
from coda_deploy.train.latent_basis import make_isotropic
from coda_export.folding.precision import lowered
from coda_export.folding.upsample import FoldedUpsample
from tests.tiny_families import FORMS, IMAGE_SIZE, OwnVae, make_family, make_family_vae
from tests.tiny_tokenizers import images

pytestmark = pytest.mark.numeric
VIDEO = [form for form, (name, _) in FORMS.items() if isinstance(FAMILIES[name], AutoencoderKLQwenImage)]
PATCHED = [form for form in FORMS if "Flux2" in form]


# Of each class its first form; what does not depend on the form is tested with these.
FIRST = list({name: form for form, (name, _) in reversed(FORMS.items())}.values())


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tok(form: str) -> CodaTokenizer:
    """Not to be changed."""
    return make_family(form)


def pixels(count: int = 2) -> Tensor:
    return from_pixels(images(count, IMAGE_SIZE))


def test_every_family_has_a_form() -> None:
    assert {name for name, _ in FORMS.values()} == set(FAMILIES)


def test_the_configuration_tells_the_latent(tok: CodaTokenizer) -> None:
    with torch.no_grad():
        latent = tok.encode_latent(images())
        decoded = tok.decode_latent(latent)
    side = IMAGE_SIZE // tok.spec.downsample
    assert tuple(latent.shape) == (2, tok.spec.latent_channels, side, side)
    assert tuple(decoded.shape) == (2, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert len(tok.encode(images()).unique()) >= 3, "a test where one code takes all proves little"


def original(form: str) -> tuple[Tensor, Tensor]:
    """The latent as generators see it, and what comes back, by the VAE's own class and its pipelines' formulas."""
    vae: Any = make_family_vae(form)
    x = pixels()
    if FORMS[form][0] == USER_MODULE.class_name:
        latent = vae.encode(x)
        return latent, vae.decode(latent)
    frames = form in VIDEO
    encoded = vae.encode(x[:, :, None] if frames else x)
    mean = (
        next(getattr(encoded, name) for name in ("latents", "latent") if hasattr(encoded, name))
        if (not hasattr(encoded, "latent_dist"))
        else encoded.latent_dist.mode()
    )
    back = vae.decode(mean).sample
    mean, back = (mean[:, :, 0], back[:, :, 0]) if frames else (mean, back)
    config = vae.config
    if form in PATCHED:
        return vae.bn(nn.functional.pixel_unshuffle(mean, 2)), back
    scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    if config.get("latents_mean"):
        shift = torch.tensor(config.latents_mean)[:, None, None]
        scale = scale / torch.tensor(config.latents_std)[:, None, None]
    return scale * (mean - shift), back


@torch.no_grad()
def test_it_is_what_the_class_itself_computes(form: str) -> None:
    """Latent and images; of a video VAE its first frame, though no layer of three dimensions is left."""
    tok = make_family(form, alive=False)
    latent, back = original(form)
    found = tok.encode_latent(images(2, IMAGE_SIZE))
    torch.testing.assert_close(found, latent, atol=1e-4, rtol=1e-4)
    clamped = tok.decode_latent(found).clamp(-1, 1)  # some classes do that themselves
    torch.testing.assert_close(clamped, back.clamp(-1, 1), atol=2e-4, rtol=1e-4)
    assert not any(isinstance(module, nn.Conv3d) for module in tok.modules())


@torch.no_grad()
def test_folding_changes_nothing(tok: CodaTokenizer, form: str) -> None:
    before = {key: tensor.clone() for key, tensor in tok.state_dict().items()}
    folded = fold_tokenizer(tok)
    torch.testing.assert_close(folded.encoder(images()), tok.encode_latent(images()), atol=1e-4, rtol=1e-4)
    ids = tok.encode(images())
    made, expected = folded.decoder(ids), to_pixels(tok.decode(ids))
    assert (made.int() - expected.int()).abs().max() <= 1
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        assert (made[edge] == expected[edge]).float().mean() > 0.98, "a shift in a convolution that pads is wrong there"
    assert all(torch.equal(tensor, tok.state_dict()[key]) for key, tensor in before.items())
    doublings = sum(isinstance(module, FoldedUpsample) for module in folded.decoder.modules())
    assert (doublings > 0) == ("doublings" in tok.family.folds and "sub-pixel" not in form + tok.family.folds)


@pytest.mark.parametrize("form", FIRST, scope="module", indirect=True)
@torch.no_grad()
def test_lower_precisions_keep_float32_where_it_decides(tok: CodaTokenizer) -> None:
    folded = fold_tokenizer(tok)
    for part, given in ((folded.encoder, images()), (folded.decoder, tok.encode(images()))):
        name = "encoder" if part is folded.encoder else "decoder"
        body = getattr(part, name)
        low = lowered(body, "bf16", part.kept)
        kinds = {p.dtype for p in low.parameters()}
        assert kinds == {torch.float32, torch.bfloat16}
        expected = part(given).float()
        setattr(part, name, low)
        found = part(given).float()
        assert found.dtype == torch.float32
        error = (found - expected).square().mean().sqrt() / expected.std()
        assert error < 0.3, "random weights: a trained VAE loses far less"


@pytest.mark.parametrize("form", FIRST, scope="module", indirect=True)
def test_it_goes_to_a_folder_and_back(tok: CodaTokenizer, form: str, tmp_path: Path) -> None:
    tok.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vae"]["_class_name"] == FORMS[form][0]
    given = {"vae": OwnVae()} if tok.family is USER_MODULE else {}
    read = CodaTokenizer.from_pretrained(tmp_path, **given)
    written = json.loads(json.dumps(tok.config.to_json()))
    assert (read.config.to_json(), read.origin) == (type(tok.config).from_json(written).to_json(), tok.origin)
    assert torch.equal(read.encode(images()), tok.encode(images()))
    assert torch.equal(read.decode(tok.encode(images())), tok.decode(tok.encode(images())))
    tok.save_pretrained(tmp_path / "half", torch.bfloat16)
    half = CodaTokenizer.from_pretrained(tmp_path / "half", **({"vae": OwnVae()} if given else {}))
    assert all(a.dtype == b.dtype for a, b in zip(half.state_dict().values(), tok.state_dict().values(), strict=True))


@pytest.mark.parametrize("form", FIRST, scope="module", indirect=True)
def test_gradients_reach_all_that_trains_and_nothing_else(form: str) -> None:
    tok = make_family(form).train()
    frozen = {key: t.clone() for key, t in tok.state_dict().items() if "lora" not in key and key.startswith("vae.")}
    out = tok(images(2, IMAGE_SIZE))
    (out.reconstruction.square().mean() + out.vq_loss).backward()
    trained = dict(tok.trainable())
    for name, parameter in tok.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    moved = sum(bool(parameter.grad.abs().max() > 0) for parameter in trained.values() if parameter.grad is not None)
    assert moved > 0.9 * len(trained)
    assert all(torch.equal(t, tok.state_dict()[key]) for key, t in frozen.items()), "batch statistics are the VAE's"


@pytest.mark.parametrize("form", FIRST, scope="module", indirect=True)
def test_lora_is_where_the_family_says(tok: CodaTokenizer) -> None:
    names = list(lora_layers(tok.vae))
    assert names
    assert all(any(target in name for target in tok.family.lora_targets) for name in names)
    if tok.family.lora_roots != ("",):
        assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}


def test_what_a_family_cannot_do_is_refused_by_its_name(form: str) -> None:
    tok = make_family(form, alive=False)
    with torch.no_grad():
        before = tok.decode_latent(tok.encode_latent(images()))
    family, generator = tok.family, torch.Generator().manual_seed(0)
    assert set(family.cannot) <= set(ABILITIES)
    if "equalise" in family.cannot:
        with pytest.raises(ConfigError, match=f"an {family.class_name} cannot: .*set warmup.equalise = false"):
            make_isotropic(tok.vae, family, pixels(), generator, tok.config.latent_scale)
        return
    make_isotropic(tok.vae, family, pixels(), generator, tok.config.latent_scale)
    with torch.no_grad():
        after = tok.decode_latent(tok.encode_latent(images()))
    assert (after - before).abs().max() < 1e-3 * before.abs().max()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != USER_MODULE.class_name])
def test_a_configuration_s_numbers_are_checked(name: str) -> None:
    """Whatever stands in place of a number or a list is an error of ours, and nothing is built of it."""
    family = FAMILIES[name]
    for form, (kind, _) in FORMS.items():
        if kind != name:
            continue
        good = family.settings(make_family_vae(form))
        family.check(good)
        for key, value in good.items():
            if isinstance(value, bool) or not isinstance(value, (int, list, tuple)) or key not in _NUMBERS:
                continue
            for bad in (0, -1, 10**9, "8", 2.5, None, [], [0], ["8"], [10**9] * 3, [4] * 300, {}):
                if bad is None and key not in _REQUIRED:
                    continue
                with pytest.raises(ConfigError, match=r"vae\.|the VAE"):
                    family.check({**good, key: bad})


_REQUIRED = {"latent_channels", "block_out_channels", "dim_mult", "z_dim", "base_dim"}
_NUMBERS = _REQUIRED | {
    "layers_per_block",
    "encoder_block_out_channels",
    "decoder_layers_per_block",
    "num_encoder_blocks",
    "num_decoder_blocks",
    "up_block_out_channels",
    "spatial_compression_ratio",
    "temperal_downsample",
    "num_res_blocks",
    "patch_size",
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("channels", "found"), [(1, "1 channels and gives 1"), (4, "4 channels and gives 4")])
def test_grey_and_transparent_images_are_refused(name: str, channels: int, found: str) -> None:
    family = FAMILIES[name]
    if family is USER_MODULE:
        pytest.skip("a module of one's own says nothing of its channels: it is tried")
    form = next(form for form, (kind, _) in FORMS.items() if kind == name)
    settings = family.settings(make_family_vae(form))
    keys = [key for key in ("in_channels", "out_channels", "input_channels") if key in settings]
    patches = (settings.get("patch_size") or 1) ** 2 if name == "AutoencoderKLWan" else 1
    with pytest.raises(ConfigError, match=f"takes images of {found}, expected 3 and 3: RGB"):
        family.check({**settings, **dict.fromkeys(keys, channels * patches)})


def test_a_size_that_the_factor_does_not_divide() -> None:
    with pytest.raises(ConfigError, match=r"image_size 36 is not a multiple of 8, the VAE's downsampling: choose 32"):
        CodaTokenizer.from_vae(make_family_vae("AutoencoderKLWan, 2.2"), image_size=36, scales=(1, 4))


@pytest.mark.parametrize("form", PATCHED[:1])
def test_statistics_that_were_left_behind(form: str) -> None:
    tok = make_family(form, lora=None)
    with pytest.raises(ConfigError, match="no batch normalisation, which holds its latent's statistics"):
        CodaTokenizer.from_vae(tok.vae, image_size=IMAGE_SIZE, scales=(1, 4))


def test_an_unknown_class_is_refused_with_the_list_and_the_protocol() -> None:
    class Lacking(nn.Module):
        latent_channels = 4

        def encode(self, x: Tensor) -> Tensor:
            return x

    for call in (lambda: family_of_module(Lacking()), lambda: family_of({"_class_name": "Lacking"})):
        with pytest.raises(ConfigError, match=r"is a Lacking, expected one of AutoencoderKL, .*encode\(x\) -> latent"):
            call()
    assert family_of({}) is FAMILIES["AutoencoderKL"], "those of before there were others name none"


def test_lora_may_be_named_by_the_user() -> None:
    tok = make_family("AutoencoderDC", lora=LoraConfig(2, ("attn.to_out",)))
    assert {name.split(".")[-1] for name in lora_layers(tok.vae)} == {"to_out"}
    with pytest.raises(ConfigError, match=r"\['conv_depth'\] match no Conv2d or Linear of the VAE's encoder"):
        make_family("AutoencoderDC", lora=LoraConfig(2, ("conv_depth",)))
    with pytest.raises(ConfigError, match=r"\['to_q'\] match no Conv2d of the VAE's"):
        make_family("AutoencoderKL", lora=LoraConfig(2, ("to_q",)))
