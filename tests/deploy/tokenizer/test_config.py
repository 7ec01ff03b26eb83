"""config.json: what is read, and what is refused with the way out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coda_deploy import CodaError, ConfigError, LoraConfig, TokenizerConfig
from tests.tiny_tokenizers import VAES


def config(**changes: Any) -> TokenizerConfig:
    values = {"variant": "v", "image_size": 32, "vocab_size": 64, "scales": (1, 2, 3, 5, 8), "vae": VAES["sd"]}
    return TokenizerConfig(**(values | changes))


def test_round_trip_through_json() -> None:
    made = config(norm="layer", lora=LoraConfig(3, ("conv1",)), latent_shift=-0.5, license="CC0-1.0")
    read = TokenizerConfig.from_json(json.loads(json.dumps(made.to_json())))
    assert read == TokenizerConfig(**{**vars(made), "vae": json.loads(json.dumps(made.vae))})
    merged = config(lora=None)
    assert TokenizerConfig.from_json(json.loads(json.dumps(merged.to_json()))).lora is None


def test_derived_numbers() -> None:
    made = config()
    assert (made.downsample, made.latent_channels, made.num_tokens) == (4, 4, 1 + 4 + 9 + 25 + 64)
    assert made.spec.prefix_lengths == (1, 5, 14, 39, 103)
    assert made.spec.latent_size == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, r"image_size 30 is not a multiple of 4.*choose 28"),
        ({"image_size": 2}, r"image_size 2 is not a multiple of 4.*choose 4"),
        ({"scales": (1, 2, 4)}, r"\[1, 2, 4\] must end at 8"),
        ({"scales": ()}, r"scales must be whole numbers.*, found \[\]"),
        ({"scales": (1, 5, 3, 8)}, r"that rise strictly, .*, found \[1, 5, 3, 8\]"),
        ({"scales": (1, 1, 8)}, "that rise strictly"),
        ({"scales": (0, 8)}, "must be whole numbers from 1 to 1024"),
        ({"vocab_size": 1}, "vocab_size must be at least 2, found 1"),
        ({"attention_dim": 0}, "attention_dim must be a whole number, 1 or more, found 0"),
        ({"image_size": 128.0}, "image_size must be a whole number from 1 to 8192, or .*, found 128.0"),
        ({"lora": LoraConfig(rank=0)}, "lora.rank must be a whole number"),
        ({"vae": {"block_out_channels": []}}, r"block_out_channels must list the VAE.s widths, found \[\]"),
        ({"norm": "batch"}, "norm must be one of none, layer, rms, found 'batch'"),
        ({"latent_scale": 0.0}, "latent_scale must be positive, found 0.0"),
        ({"latent_scale": float("nan")}, "latent_scale must be positive, found nan"),
    ],
)
def test_numbers_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
    assert issubclass(ConfigError, CodaError)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "is not a CODA tokenizer's .found list"),
        ({}, "found no format key"),
        ({"_class_name": "AutoencoderKL"}, "found AutoencoderKL.*coda train --vae makes .*CodaTokenizer.from_vae"),
        ({"format": "coda-tokenizer", "format_version": 2}, "format_version 2.*reads 1: upgrade coda-deploy"),
        ({"format": "coda-tokenizer"}, "format_version None"),
        ({"format": "coda-tokenizer", "format_version": 1}, "lacks image_size, scales, vae, variant, vocab_size"),
    ],
)
def test_foreign_newer_and_incomplete_files(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenizerConfig.from_json(data)


def test_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown key 'vocabsize', did you mean 'vocab_size'"):
        TokenizerConfig.from_json(config().to_json() | {"vocabsize": 5})
    with pytest.raises(ConfigError, match=r"unknown key 'zzz'$"):
        TokenizerConfig.from_json(config().to_json() | {"zzz": 5})


@pytest.mark.parametrize(
    "change",
    [
        {"scales": 8},
        {"scales": ["a"]},
        {"scales": None},
        {"image_size": "32"},
        {"vocab_size": None},
        {"vae": {}},
        {"vae": None},
        {"vae": "a"},
        {"lora": {}},
        {"lora": {"rank": "x", "targets": []}},
        {"lora": [1]},
        {"lora": {"rank": 1.5, "targets": []}},
        {"lora": "none"},
        {"latent_scale": "1"},
        {"latent_shift": "0"},
        {"latent_shift": None},
        {"norm_eps": []},
        {"variant": 7},
        {"variant": ""},
        {"variant": "\x1b[2J"},
        {"license": ["MIT"]},
        {"license": False},
        {"license": 0},
        {"license": []},
        {"license": {}},
        {"lora": {"rank": 1, "targets": "conv1"}},
        {"lora": {"rank": 1, "targets": {"conv1": 1}}},
        {"lora": {"rank": 1, "targets": [1]}},
        {"scales": [1, 2, 3, 5, 8.5]},
        {"scales": [True, 8]},
        {"scales": [1, 10**30]},
        {"image_size": 2**40},
        {"vocab_size": 2**31},
        {"vae": VAES["sd"] | {"block_out_channels": [8] * 20_000}},
        {"vae": VAES["sd"] | {"block_out_channels": [8, "8", 8]}},
        {"vae": VAES["sd"] | {"layers_per_block": 10**9}},
    ],
    ids=str,
)
def test_values_of_a_wrong_kind(change: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"^(config\.json has a value of the wrong type:|[a-z_.\[\]0-9]+ must (be|list)) .{3,300}$"
    ):
        TokenizerConfig.from_json(config().to_json() | change)
