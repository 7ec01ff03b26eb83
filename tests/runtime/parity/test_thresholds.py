"""Floors: what falls under one is named, with by how much."""

from __future__ import annotations

import dataclasses
import re

import pytest

from coda_runtime import CodaError
from coda_runtime.format.manifest import Manifest
from coda_runtime.format.parity import parity_record
from coda_runtime.parity import (
    DEFAULT_THRESHOLDS,
    Measured,
    NotMeasured,
    ParityError,
    Threshold,
    check_threshold,
    recorded_thresholds,
    threshold_of,
    unmeasured,
)
from tests.runtime import tiny

BLACK = Measured({"psnr": 65.0, "psnr_min": 5.5})


def test_fp32_is_held_to_the_contract() -> None:
    assert DEFAULT_THRESHOLDS["fp32"] == Threshold(0.999, 55.0)
    assert DEFAULT_THRESHOLDS.keys() == {"fp32", "fp16", "bf16", "int8"}
    assert issubclass(ParityError, CodaError)


def test_at_or_over_the_threshold() -> None:
    check_threshold("encoder", "fp32", Measured({"step_agreement": 0.999}), Threshold(0.999, 55))
    check_threshold("decoder", "fp32", Measured({"psnr": 55.0}), Threshold(0.999, 55))


def test_identical_images_and_what_was_not_run_are_not_judged() -> None:
    check_threshold("decoder", "fp32", Measured({"psnr": None}), Threshold(1, 200))
    check_threshold("encoder", "bf16", NotMeasured("no bf16 here", "step_agreement"), Threshold(1, 200))


def test_tokens_under_the_threshold() -> None:
    with pytest.raises(
        ParityError,
        match=r"the fp16 encoder agrees with the tokenizer on 97\.500 % of the tokens, the threshold is 98\.000 % "
        r"\(0\.500 % short\): .*--min-agreement",
    ):
        check_threshold("encoder", "fp16", Measured({"step_agreement": 0.975, "agreement": 1.0}), Threshold(0.98, 45))


def test_pixels_under_the_threshold() -> None:
    with pytest.raises(
        ParityError,
        match=r"the bf16 decoder is 30\.25 dB from the tokenizer's images, the threshold is 35\.00 dB \(4\.75 dB "
        r"short\).*--min-psnr",
    ):
        check_threshold("decoder", "bf16", Measured({"psnr": 30.25}), Threshold(0.85, 35))


def test_the_worst_image_under_the_threshold() -> None:
    with pytest.raises(
        ParityError,
        match=r"the worst image of the fp32 decoder is 5\.50 dB from the tokenizer's, the threshold is 55\.00 dB "
        r"\(49\.50 dB short\)",
    ):
        check_threshold("decoder", "fp32", BLACK, DEFAULT_THRESHOLDS["fp32"])
    with pytest.raises(ParityError, match="the worst image of the fp32 decoder at a batch of 8 is 5"):
        check_threshold("decoder", "fp32", Measured({"psnr": 65.0}, {"8": BLACK}), DEFAULT_THRESHOLDS["fp32"])
    check_threshold("decoder", "fp32", Measured({"psnr": 65.0, "psnr_min": 55.0}), DEFAULT_THRESHOLDS["fp32"])
    check_threshold("decoder", "fp32", Measured({"psnr": None, "psnr_min": None}), DEFAULT_THRESHOLDS["fp32"])
    # As recorded before there was one.
    check_threshold("decoder", "fp32", Measured({"psnr": 65.0}), DEFAULT_THRESHOLDS["fp32"])


def test_the_way_out_is_one_that_an_engine_s_builder_has_too() -> None:
    """`coda build` may run where there is no `coda export`."""
    for part, numbers in (
        ("encoder", Measured({"step_agreement": 0.1})),
        ("decoder", Measured({"psnr": 1.0})),
        ("decoder", BLACK),
    ):
        with pytest.raises(ParityError, match=r"accept it with --min-(agreement|psnr) when exporting") as caught:
            check_threshold(part, "fp32", numbers, DEFAULT_THRESHOLDS["fp32"])
        assert "coda export" not in str(caught.value)


@pytest.mark.parametrize("precision", DEFAULT_THRESHOLDS)
def test_a_higher_precision_is_named_where_there_is_one(precision: str) -> None:
    for part, numbers in (("encoder", Measured({"step_agreement": 0.1})), ("decoder", BLACK)):
        with pytest.raises(ParityError) as caught:
            # int8 is not judged by its tokens, unless somebody asks for it.
            check_threshold(
                part, precision, numbers, dataclasses.replace(DEFAULT_THRESHOLDS[precision], min_agreement=0.9)
            )
        assert bool(re.search("take fp32, or (export with [^,]*, or )?accept it", str(caught.value))) == (
            precision != "fp32"
        )
        assert "higher" not in str(caught.value)


def test_where_nothing_stands_in_the_way_bf16_has_to_run_too() -> None:
    numbers = NotMeasured("an illegal memory access", "step_agreement")
    check_threshold("encoder", "bf16", numbers, DEFAULT_THRESHOLDS["bf16"])
    with pytest.raises(ParityError, match="the bf16 encoder could not be run, so its parity is unknown: an illegal"):
        check_threshold("encoder", "bf16", numbers, DEFAULT_THRESHOLDS["bf16"], must_run=True)


def test_the_threshold_of_a_precision() -> None:
    assert threshold_of(DEFAULT_THRESHOLDS, "bf16") == Threshold(0.93, 45.0)
    with pytest.raises(ParityError, match=r"no threshold for precision 'int4', only for fp32, fp16, bf16"):
        threshold_of(DEFAULT_THRESHOLDS, "int4")


def test_sizes_that_ran_are_judged_where_another_did_not() -> None:
    batches = {"1": {"step_agreement": 0.5}, "8": {"step_agreement": None, "reason": "no memory"}}
    parity = parity_record({"step_agreement": None, "reason": "at a batch of 8: no memory", "batches": batches})
    assert parity is not None
    with pytest.raises(ParityError, match=r"the bf16 encoder at a batch of 1 agrees with the tokenizer on 50\.000 %"):
        check_threshold("encoder", "bf16", parity, Threshold(0.93, 45))
    check_threshold("encoder", "bf16", parity, Threshold(0.5, 45))
    with pytest.raises(ParityError, match="could not be run, so its parity is unknown: at a batch of 8"):
        check_threshold("encoder", "fp16", parity, Threshold(0.5, 45))


def test_where_something_was_not_measured() -> None:
    parity = {"onnxruntime:cpu": {"psnr": None}, "tensorrt:cuda": {"psnr": None, "reason": "another GPU"}, "note": 3}
    assert list(unmeasured(parity)) == [("tensorrt:cuda", "another GPU")]


LOSS = {"psnr": 48.0, "psnr_min": 45.0, "psnr_drop": 0.05, "psnr_drop_error": 0.06, "psnr_drop_max": 0.3}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            {"psnr_drop": 0.25},
            r"through the int8 encoder and the int8 decoder images lose 0.250 ± 0.060 dB of PSNR, the threshold is "
            r"0.100 dB \(0.090 dB over\)",
        ),
        ({"psnr_drop": 0.12, "psnr_drop_error": 0.01}, r"images lose 0.120 ± 0.010 dB of PSNR"),
        ({"psnr_drop": 0.12, "psnr_drop_error": None}, r"images lose 0.120 dB of PSNR"),  # of before it was recorded
        (
            {"psnr_drop_max": 0.41},
            r"the worst image loses 0.410 dB of PSNR, the threshold is 0.400 dB \(0.010 ",
        ),
        ({"psnr": 41.9}, r"the int8 decoder is 41.90 dB from the tokenizer's images"),
        ({"psnr_drop": None}, r"what is lost through the int8 decoder was not measured"),
    ],
)
def test_int8_is_judged_by_what_a_picture_loses(numbers: dict[str, float | None], message: str) -> None:
    check_threshold("decoder", "int8", Measured(LOSS), DEFAULT_THRESHOLDS["int8"])
    with pytest.raises(ParityError, match=message):
        check_threshold("decoder", "int8", Measured(LOSS | numbers), DEFAULT_THRESHOLDS["int8"])
    batches = {"4": Measured({"psnr": 48.0, "psnr_drop": 1.0, "psnr_drop_max": 1.0})}
    with pytest.raises(ParityError, match="the int8 decoder at a batch of 4"):
        check_threshold("decoder", "int8", Measured(LOSS, batches), DEFAULT_THRESHOLDS["int8"])


def test_an_encode_graph_is_held_to_the_same() -> None:
    """It gives tokens, and in int8 they are judged by what they make of a picture."""
    loss = {name: value for name, value in LOSS.items() if name.startswith("psnr_drop")}
    threshold = DEFAULT_THRESHOLDS["int8"]
    check_threshold("encode", "int8", Measured({"step_agreement": 0.3, **loss}), threshold)
    with pytest.raises(ParityError, match=r"through the int8 encode and the int8 decoder images lose 1.000 ± 0.060 dB"):
        check_threshold("encode", "int8", Measured(loss | {"psnr_drop": 1.0}), threshold)
    with pytest.raises(ParityError, match="the int8 encode was not measured, since its decoder was not run"):
        check_threshold("encode", "int8", Measured({"step_agreement": 0.3}), threshold)
    with pytest.raises(ParityError, match=r"the fp32 encode agrees with the tokenizer on 99.000 %"):
        check_threshold("encode", "fp32", Measured({"step_agreement": 0.99}), DEFAULT_THRESHOLDS["fp32"])


def test_a_mean_that_may_be_chance_is_no_loss() -> None:
    check_threshold("decoder", "int8", Measured(LOSS | {"psnr_drop": 0.15}), DEFAULT_THRESHOLDS["int8"])


def test_tokens_of_int8_are_told_and_not_judged() -> None:
    check_threshold("encoder", "int8", Measured({"step_agreement": 0.3}), DEFAULT_THRESHOLDS["int8"])


def test_a_loss_is_recorded_and_read_again() -> None:
    floors = {name: threshold.to_json() for name, threshold in DEFAULT_THRESHOLDS.items()}
    assert floors["fp32"].keys() == {"min_agreement", "min_psnr"}, "as a bundle of before has it"
    assert floors["int8"]["max_psnr_drop"] == 0.1
    manifest = Manifest(tiny.SPEC, (), provenance={"floors": floors})
    assert recorded_thresholds(manifest) == DEFAULT_THRESHOLDS
