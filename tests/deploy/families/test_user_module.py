"""A VAE of the user's own: given, never imported by a name that stands in a file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coda_deploy import CodaTokenizer, ConfigError, LoraConfig
from coda_deploy.errors import ModuleNeededError
from coda_deploy.tokenizer.vae import load_vae
from coda_deploy.train.build import build_tokenizer
from tests.deploy.train import runs
from tests.tiny_families import OwnVae, make_family
from tests.tiny_tokenizers import images, make

pytestmark = pytest.mark.numeric
PAGE = Path(__file__).parents[3] / "docs" / "training.md"
CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("imported")
from tests.tiny_families import OwnVae
def make():
    return OwnVae()
def other():
    return 3
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_family("UserModule").save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """my_own_vae.py in the working directory, which leaves a mark where it is imported."""
    marker = tmp_path / "imported"
    (tmp_path / "my_own_vae.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_vae", raising=False)
    return marker


def test_it_has_to_be_given_again(saved: Path) -> None:
    with pytest.raises(ModuleNeededError, match=r"tiny_families.OwnVae, whose code .* never imported .*vae=MODULE"):
        CodaTokenizer.from_pretrained(saved)
    read = CodaTokenizer.from_pretrained(saved, vae=OwnVae())
    assert torch.equal(read.encode(images()), make_family("UserModule").encode(images()))
    assert not read.training


def test_no_name_in_a_file_is_imported(saved: Path, module: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    for name in ("my_own_vae.make", "my_own_vae:make", "python:my_own_vae:make"):
        config["vae"]["module"] = name
        (saved / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModuleNeededError):
            CodaTokenizer.from_pretrained(saved)
    with pytest.raises(ConfigError, match="code that would be run: give it yourself, --vae python:my_own_vae:make"):
        build_tokenizer(runs.config(tokenizer={"vae": "python:my_own_vae:make"}))
    assert not module.exists()


def test_a_name_that_the_user_gives_is_called(saved: Path, module: Path) -> None:
    assert isinstance(load_vae("python:my_own_vae:make"), OwnVae)
    assert module.read_text() == "imported"
    read = CodaTokenizer.from_pretrained(f"python:my_own_vae:make:{saved}")
    assert torch.equal(read.encode(images()), make_family("UserModule").encode(images()))
    for name, message in {
        "python:my_own_vae": "names no function, expected python:MODULE:FUNCTION",
        "python:my_own_vae:missing": "cannot be called .*AttributeError.* does it have missing",
        "python:no_such_module:make": "cannot be called .*is no_such_module installed, or a file in",
        "python:my_own_vae:other": r"gave a int, expected a torch.nn.Module with encode\(x\)",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_vae(name)
    with pytest.raises(ConfigError, match="expected python:MODULE:FUNCTION:FOLDER"):
        CodaTokenizer.from_pretrained("python:my_own_vae:make")


def test_another_module_than_it_was_made_of(saved: Path, tmp_path: Path) -> None:
    class Another(OwnVae):
        pass

    class Wider(OwnVae):
        latent_channels = 7

    for given, found in ((Another, "has module '.*Another'"), (Wider, "has module '.*Wider'")):
        with pytest.raises(ConfigError, match=f"the module given {found}, .* give a module of the same class"):
            CodaTokenizer.from_pretrained(saved, vae=given())
    with pytest.raises(ConfigError, match="the VAE given has LoRA, it is a tokenizer's already"):
        CodaTokenizer.from_pretrained(saved, vae=make_family("UserModule").vae)
    make().save_pretrained(tmp_path / "kl")
    with pytest.raises(ConfigError, match="an AutoencoderKL, which needs none: leave it out"):
        CodaTokenizer.from_pretrained(tmp_path / "kl", vae=OwnVae())


@pytest.mark.parametrize(
    ("method", "made", "message"),
    [
        ("encode", lambda x: x[:, :1, ::4, ::4], r"encode gives a tensor \[1, 1, 8, 8\], expected \[1, 6, 8, 8\]"),
        ("encode", lambda x: x[:, :1, None], r"encode gives a tensor \[1, 1, 1, 32, 32\], expected \[1, 6, 8, 8\]"),
        ("encode", lambda x: (x,), "encode gives tuple, expected a tensor"),
        ("encode", lambda x: torch.randn(1, 6, 8, 8), "gives another latent each time: give the posterior's mean"),
        ("decode", lambda z: z.new_zeros(1, 1, 32, 32), r"decode gives a tensor \[1, 1, 32, 32\], expected \[1, 3, 32"),
        ("decode", lambda z: z.new_zeros(1, 3, 5, 32, 32), r"gives a tensor \[1, 3, 5, 32, 32\], .* not a video"),
    ],
    ids=["shape", "video", "tuple", "sample", "grey", "frames"],
)
def test_it_is_tried_before_anything_is_made_of_it(method: str, made: Any, message: str) -> None:
    vae = OwnVae()
    setattr(vae, method, made)
    with pytest.raises(ConfigError, match=message):
        CodaTokenizer.from_vae(vae, image_size=32, scales=(1, 8))


def test_weights_that_are_not_finite() -> None:
    vae = OwnVae()
    with torch.no_grad():
        vae.mix.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"weights of OwnVae hold NaN or infinite values, first in 'mix\.weight'"):
        CodaTokenizer.from_vae(vae, image_size=32, scales=(1, 8))


def test_names_that_are_the_end_of_others_get_lora_of_their_own() -> None:
    class Nested(nn.Module):
        latent_channels, downsample = 3, 1

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.inner = nn.ModuleDict({"conv": nn.Conv2d(3, 3, 1)})

        def encode(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner["conv"](x)
            return y

        def decode(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y

    tok = CodaTokenizer.from_vae(Nested(), image_size=8, scales=(1, 8), lora=LoraConfig(2, ("inner.",)))
    assert {name.rsplit(".lora", 1)[0] for name, _ in tok.trainable() if "lora" in name} == {"vae.inner.conv"}


def test_the_page_s_own_module_becomes_a_tokenizer(tmp_path: Path) -> None:
    """The twenty lines of docs/training.md, as they stand there."""
    (code,) = re.findall(r"```python\n(# my_vae\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 20
    names: dict[str, Any] = {"__name__": "my_vae"}
    exec(code, names)
    tok = CodaTokenizer.from_vae(names["MyVae"](), image_size=32, vocab_size=16, scales=(1, 2, 8))
    tok.save_pretrained(tmp_path / "tokenizer")
    read = CodaTokenizer.from_pretrained(tmp_path / "tokenizer", vae=names["MyVae"]())
    assert torch.equal(read.encode(images()), tok.eval().encode(images()))
