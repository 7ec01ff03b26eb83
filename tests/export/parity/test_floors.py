"""Floors: what falls under one is named, with by how much."""

from __future__ import annotations

import pytest

from coda_export import DEFAULT_FLOORS, Floor, ParityError
from coda_export.parity import check_floor
from coda_runtime import CodaError


def test_fp32_is_held_to_the_contract() -> None:
    assert DEFAULT_FLOORS["fp32"] == Floor(0.999, 55.0)
    assert DEFAULT_FLOORS.keys() == {"fp32", "fp16", "bf16"}
    assert issubclass(ParityError, CodaError)


def test_at_or_over_the_floor() -> None:
    check_floor("encoder", "fp32", {"step_agreement": 0.999}, Floor(0.999, 55))
    check_floor("decoder", "fp32", {"psnr": 55.0}, Floor(0.999, 55))


def test_identical_images_and_what_was_not_run_are_not_judged() -> None:
    check_floor("decoder", "fp32", {"psnr": None}, Floor(1, 200))
    check_floor("encoder", "bf16", {"step_agreement": None, "reason": "no bf16 here"}, Floor(1, 200))


def test_tokens_under_the_floor() -> None:
    with pytest.raises(
        ParityError,
        match=r"the fp16 encoder agrees with the tokenizer on 97\.500% of the tokens, the floor is 98\.000% "
        r"\(0\.500% short\): .*--min-agreement",
    ):
        check_floor("encoder", "fp16", {"step_agreement": 0.975, "agreement": 1.0}, Floor(0.98, 45))


def test_pixels_under_the_floor() -> None:
    with pytest.raises(
        ParityError,
        match=r"the bf16 decoder is 30\.25 dB from the tokenizer's images, the floor is 35\.00 dB \(4\.75 dB short\)"
        r".*--min-psnr",
    ):
        check_floor("decoder", "bf16", {"psnr": 30.25}, Floor(0.85, 35))
