"""`coda train` of every family: a few steps, stopped and resumed, to the bit what an uninterrupted run gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from coda_deploy import CodaTokenizer, ConfigError
from coda_deploy.errors import ModuleNeededError
from coda_deploy.families import FAMILIES, USER_MODULE
from coda_deploy.tokenizer.origin import compare
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.trainer import train
from coda_runtime.format.vae_record import ADAPTED
from tests.deploy.train import runs
from tests.tiny_families import FORMS, OwnVae, make_family_vae

pytestmark = pytest.mark.numeric
FIRST = list({name: form for form, (name, _) in reversed(FORMS.items())}.values())
# The others take their time: `make slow-tests`.
QUICK = ("AutoencoderTiny", "UserModule")


def config(form: str, steps: int, **warmup: Any) -> TrainConfig:
    family = FAMILIES[FORMS[form][0]]
    side = 32 // family.shape(family.settings(make_family_vae(form))).downsample
    tokenizer = {"image_size": 32, "scales": [1, 2, side]}
    return runs.config(tokenizer=tokenizer, optim={"steps": steps, "batch": 2}, save={"every": 2}, warmup=warmup)


def given(form: str, folder: Path) -> nn.Module | Path:
    if FORMS[form][0] == USER_MODULE.class_name:
        return make_family_vae(form)
    make_family_vae(form).save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form in QUICK else pytest.mark.slow) for form in FIRST]
)
def test_it_learns_stops_and_goes_on(form: str, tmp_path: Path) -> None:
    photos, vae = runs.write_photos(tmp_path / "photos", 6), given(form, tmp_path / "vae")
    done = tmp_path / "out"
    train(config(form, 4), photos, done, vae=vae)
    expected, first = runs.weights(done), done / "checkpoints" / "step-00000002"
    shutil.rmtree(done / "checkpoints" / "step-00000004")
    train(config(form, 4), photos, done, vae=given(form, tmp_path / "vae"), resume=True)
    assert all((tensor == runs.weights(done)[name]).all() for name, tensor in expected.items())
    own = FORMS[form][0] == USER_MODULE.class_name
    made, before = (CodaTokenizer.from_pretrained(folder, vae=OwnVae() if own else None) for folder in (done, first))
    assert any((tensor != before.state_dict()[name]).any() for name, tensor in made.state_dict().items())
    assert made.origin is not None
    assert (made.origin.class_name, made.origin.source) == (FORMS[form][0], None if own else "vae")
    assert compare(made.vae, made.origin)["decoder"] == (None if own else ADAPTED)


def test_a_module_of_one_s_own_is_needed_to_go_on(tmp_path: Path) -> None:
    photos = runs.write_photos(tmp_path / "photos", 6)
    train(config("UserModule", 2), photos, tmp_path / "out", vae=make_family_vae("UserModule"))
    with pytest.raises(ModuleNeededError, match="coda train --resume takes --vae python:MODULE:FUNCTION again"):
        train(config("UserModule", 2), photos, tmp_path / "out", resume=True)


def test_another_basis_is_refused_before_any_work(tmp_path: Path) -> None:
    photos, vae = runs.write_photos(tmp_path / "photos", 6), given("AutoencoderTiny", tmp_path / "vae")
    asked = config("AutoencoderTiny", 2, equalise=True, images=4, rounds=1)
    with pytest.raises(ConfigError, match="which an AutoencoderTiny cannot: its decoder clamps"):
        train(asked, photos, tmp_path / "out", vae=vae)
