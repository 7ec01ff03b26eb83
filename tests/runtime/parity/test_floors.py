"""Floors: what falls under one is named, with by how much."""

from __future__ import annotations

import pytest

from coda_runtime import CodaError
from coda_runtime.parity import DEFAULT_FLOORS, Floor, ParityError, check_floor, unmeasured


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


def test_sizes_that_ran_are_judged_where_another_did_not() -> None:
    batches = {"1": {"step_agreement": 0.5}, "8": {"step_agreement": None, "reason": "no memory"}}
    parity = {"step_agreement": None, "reason": "at a batch of 8: no memory", "batches": batches}
    with pytest.raises(ParityError, match=r"the bf16 encoder at a batch of 1 agrees with the tokenizer on 50\.000%"):
        check_floor("encoder", "bf16", parity, Floor(0.93, 45))
    check_floor("encoder", "bf16", parity, Floor(0.5, 45))
    with pytest.raises(ParityError, match="could not be run, so its parity is unknown: at a batch of 8"):
        check_floor("encoder", "fp16", parity, Floor(0.5, 45))


def test_where_something_was_not_measured() -> None:
    parity = {"onnxruntime:cpu": {"psnr": None}, "tensorrt:cuda": {"psnr": None, "reason": "another GPU"}, "note": 3}
    assert list(unmeasured(parity)) == [("tensorrt:cuda", "another GPU")]
