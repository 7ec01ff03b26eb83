"""Ready configurations, what a file may say, and what is told of a wrong one."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_deploy import ConfigError
from coda_deploy.tokenizer.variants import VARIANTS
from coda_deploy.train.config import (
    DataSection,
    LossSection,
    OptimSection,
    SaveSection,
    TokenizerSection,
    TrainConfig,
    WarmupSection,
    named_configs,
    read_config,
)

share = st.floats(0, 1)
amount = st.floats(0, 1e30)
whole = st.integers(1, 10**6)
CONFIGS = st.builds(
    TrainConfig,
    tokenizer=st.builds(
        TokenizerSection,
        variant=st.text(),
        vae=st.text(),
        license=st.text(),
        image_size=whole,
        scales=st.lists(whole).map(tuple),
        lora_rank=st.integers(0, 99),
        lora_targets=st.lists(st.text()).map(tuple),
        latent_scale=st.none() | amount,
        latent_shift=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        norm=st.sampled_from(["none", "layer", "rms"]),
    ),
    data=st.builds(DataSection, zoom=st.floats(1, 4), zoom_max=st.just(0.0) | st.floats(4, 9), flip=st.booleans()),
    optim=st.builds(
        OptimSection,
        steps=whole,
        lr=amount,
        final_lr=share,
        betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        precision=st.sampled_from(["fp32", "bf16"]),
        seed=st.integers(0, 2**63 - 1),
    ),
    loss=st.builds(
        LossSection, l1=st.floats(1e-9, 9), l2=amount, lpips=amount, gan_warmup=share, dino_weights=st.text()
    ),
    warmup=st.builds(WarmupSection, images=whole, steps=st.integers(0, 99), equalise=st.booleans()),
    save=st.builds(SaveSection, every=whole, pictures=st.integers(0, 99), project=st.text()),
)


@settings(max_examples=40)
@given(CONFIGS)
def test_a_file_holds_all_of_it(config: TrainConfig) -> None:
    assert TrainConfig.from_tables(tomllib.loads(config.to_toml())) == config
    assert TrainConfig.from_tables(config.to_json()) == config


@pytest.mark.parametrize("name", ["flux_v65536", "mar_v16384", "sample"])
def test_ready_configurations(name: str, tmp_path: Path) -> None:
    assert name in named_configs()
    config = read_config(name)
    assert config.tokenizer.variant == name
    file = tmp_path / "copy.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert read_config(file) == config


def test_there_are_no_others() -> None:
    assert named_configs() == ["flux_v65536", "mar_v16384", "sample"]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_papers_numbers(name: str) -> None:
    config, variant = read_config(name), VARIANTS[name]
    assert variant.lora is not None
    tokenizer = config.tokenizer
    assert (tokenizer.image_size, tokenizer.vocab_size, tokenizer.scales) == (256, variant.vocab_size, variant.scales)
    assert tokenizer.image_size // tokenizer.scales[-1] == variant.downsample == {"m": 16, "f": 8}[name[0]]
    assert (tokenizer.latent_scale, tokenizer.latent_shift) == (variant.latent_scale, variant.latent_shift)
    assert (tokenizer.lora_rank, tokenizer.lora_targets) == (variant.lora.rank, variant.lora.targets)
    assert (tokenizer.norm, tokenizer.attention_dim) == (variant.norm, variant.attention_dim)
    optim = config.optim
    assert (optim.lr, optim.lr_quantizer, optim.final_lr, optim.lr_warmup) == (5e-4, 5e-4, 0.0, 0)
    assert (optim.betas, optim.clip) == ((0.5, 0.9), 10.0)
    assert (optim.weight_decay, optim.weight_decay_discriminator) == (0.005, 0.0005)
    assert (optim.epochs, optim.steps, optim.ema, optim.ema_start) == (10, 0, 0.9999, 0.4)
    assert (optim.batch * optim.accumulate * 8) == {"m": 512, "f": 288}[name[0]]
    loss = config.loss
    assert (loss.l1, loss.l2, loss.lpips, loss.gan, loss.vq, loss.entropy) == (0.2, 1, 1, 1, 1, 0.05)
    assert (loss.gan_warmup, loss.augment) == (1, 1)
    assert config.data.zoom == 1.125
    assert (config.data.flip, config.warmup.images) == (False, 0)


def test_overrides_have_the_last_word() -> None:
    config = read_config(
        "mar_v16384",
        [
            "optim.batch=3",
            "optim.lr = 1e-2",
            "tokenizer.scales=[1, 16]",
            "tokenizer.vae=owner/name:vae",
            'tokenizer.license="MIT"',
            "data.flip=false",
            "optim.batch=4",
        ],
    )
    assert (config.optim.batch, config.optim.lr, config.tokenizer.scales) == (4, 0.01, (1, 16))
    assert (config.tokenizer.vae, config.tokenizer.license, config.data.flip) == ("owner/name:vae", "MIT", False)
    assert config.optim.epochs == 10


@pytest.mark.parametrize("text", ["optim.batch", "batch=3", "=", "optim"])
def test_an_override_of_another_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the setting .*: expected section.key=value, as in"):
        read_config("mar_v16384", [text])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.batchsize=3", "mar_v16384: optim has an unknown key 'batchsize'; the nearest known one is 'batch'"),
        ("losses.l1=3", "mar_v16384 has an unknown table 'losses'; the nearest known one is 'loss'"),
        ("optim.batch=3.5", "mar_v16384: optim.batch is 3.5, expected a whole number"),
        ("optim.batch=true", "mar_v16384: optim.batch is True, expected a whole number"),
        ("optim.lr=fast", "mar_v16384: optim.lr is 'fast', expected a finite number"),
        ("optim.lr=nan", "optim.lr is nan, expected a finite number"),
        ("optim.lr=inf", "optim.lr is inf, expected a finite number"),
        ("data.flip=1", "data.flip is 1, expected true or false"),
        ("tokenizer.vae=7", "tokenizer.vae is 7, expected text"),
        ("tokenizer.vae=\udcff", "which is not UTF-8"),
        ("tokenizer.scales=4", "tokenizer.scales is 4, expected a list"),
        ("tokenizer.scales=[1, 2.0]", "tokenizer.scales is 2.0, expected a whole number"),
        ("optim.batch=0", "optim.batch is 0, expected 1 or more"),
        ("optim.lr=-1", "optim.lr is -1.0, expected 0 or more"),
        ("tokenizer.image_size=0", "tokenizer.image_size is 0, expected 1 or more"),
        ("data.zoom=0.9", "data.zoom is 0.9, expected 1 or more"),
        ("data.zoom_max=0.5", "data.zoom_max is 0.5, expected 0, or data.zoom = 1.125 or more"),
        ("save.keep=0", "save.keep is 0, expected 1 or more"),
        ("optim.ema=1.5", "optim.ema is 1.5, expected 0 to 1"),
        ("optim.final_lr=2", "optim.final_lr is 2.0, expected 0 to 1"),
        ("loss.gan_warmup=3", "loss.gan_warmup is 3.0, expected 0 to 1"),
        ("optim.clip=0", "optim.clip is 0.0, expected more than 0"),
        ("optim.betas=[0.5]", r"optim.betas is \[0.5\], expected two numbers from 0 to under 1"),
        ("optim.betas=[0.5, 1]", "expected two numbers from 0 to under 1"),
        (f"optim.seed={2**63}", "expected less than 2\\^63"),
        ("optim.precision=fp16", "optim.precision is 'fp16', expected one of fp32, bf16"),
        ("save.tracking=mlflow", "save.tracking is 'mlflow', expected one of none, tensorboard, wandb"),
        ("tokenizer.norm=batch", "tokenizer.norm is 'batch', expected one of none, layer, rms"),
        ("warmup.steps=3", "warmup.steps needs warmup.images"),
    ],
)
def test_settings_that_are_rejected(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config("mar_v16384", [override])


def test_nothing_to_do() -> None:
    with pytest.raises(ConfigError, match=r"optim.steps and optim.epochs are both 0"):
        read_config("mar_v16384", ["optim.epochs=0"])
    with pytest.raises(ConfigError, match="nothing would compare images"):
        read_config("mar_v16384", ["loss.l1=0", "loss.l2=0", "loss.lpips=0"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_rejected_without_a_file_too(value: float) -> None:
    for section, names in (("optim", ("lr", "clip", "ema")), ("loss", ("l1", "augment"))):
        for name in names:
            default: Any = getattr(TrainConfig(), section)
            with pytest.raises(ConfigError, match=f"{section}.{name} is {value}"):
                TrainConfig(**{section: dataclasses.replace(default, **{name: value})})


def test_files(tmp_path: Path) -> None:
    for name in ("nothing", str(tmp_path), str(tmp_path / "none.toml")):
        with pytest.raises(ConfigError, match=r"no configuration .*: expected a TOML file, or one of flux_v65536, mar"):
            read_config(name)
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no configuration"):
        read_config(file)
    file.write_text("[optim\nlr = 3")
    with pytest.raises(ConfigError, match=r"a.toml is not TOML: .*line 1"):
        read_config(file)
    file.write_text("optim = 3")
    for overrides in ([], ["optim.lr=0.1"]):
        with pytest.raises(ConfigError, match=r"a.toml: optim is 3, expected a table"):
            read_config(file, overrides)
    file.write_text("")
    assert read_config(file) == TrainConfig()
