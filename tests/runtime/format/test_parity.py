"""A measurement is read from the manifest and written back as it stood there."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parity import Measured, NotMeasured, headline, parity_record, parity_records, unmeasured

TOKENS = {
    "step_agreement": 0.9995,
    "step_agreement_per_scale": [1.0, 0.999],
    "agreement": 0.99,
    "agreement_per_scale": [1.0, 0.98],
}
PIXELS = {"psnr": None, "psnr_min": None, "psnr_to_input": 30.5, "reference_psnr_to_input": 30.4}
ABOUT = {"images": 8, "images_from": "samples in the bundle"}


@pytest.mark.parametrize(
    "entry",
    [
        {**TOKENS, **ABOUT},
        {**PIXELS, **ABOUT},
        {**PIXELS, "batches": {"1": {"psnr": None, "psnr_min": None}, "8": {"psnr": 61.5, "psnr_min": 58.0}}, **ABOUT},
        {"psnr": None, "reason": "no GPU", **ABOUT},
        {"step_agreement": None, "reason": "no GPU"},
        {
            "psnr": None,
            "reason": "at a batch of 8: no memory",
            "batches": {"1": {"psnr": 61.5, "psnr_min": 58.0}, "8": {"psnr": None, "reason": "no memory"}},
            **ABOUT,
        },
    ],
    ids=["tokens", "pixels", "sizes", "not run", "bare", "a size that did not run"],
)
def test_byte_for_byte(entry: dict[str, Any]) -> None:
    record = parity_record(json.loads(json.dumps(entry)))
    assert record is not None
    assert isinstance(record, NotMeasured) is ("reason" in entry)
    assert json.dumps(record.to_json()) == json.dumps(entry)


def test_identical_images_are_not_what_was_not_measured() -> None:
    tokens, pixels = Measured(TOKENS), Measured(PIXELS)
    assert (tokens.step_agreement, tokens.psnr, tokens.has_psnr) == (0.9995, None, False)
    assert (pixels.step_agreement, pixels.psnr, pixels.psnr_min, pixels.has_psnr) == (None, None, None, True)


def test_what_was_written_by_hand() -> None:
    parity = {"a": 3, "b": None, "c": {}, "d": {"psnr": "high", "batches": 7, "images": "many"}, "e": {"reason": 4}}
    found = parity_records(parity)
    assert found == {"c": Measured({}), "d": Measured({"psnr": "high"}), "e": NotMeasured("4")}
    assert found["d"].to_json() == {"psnr": "high"}
    assert list(unmeasured(parity)) == [("e", "4")]


def test_what_decides_a_part() -> None:
    names = [headline(part) for part in ("encoder", "quantizer", "decoder", "search")]
    assert names == ["step_agreement", "step_agreement", "psnr", "step_agreement"]


def test_an_artifact_that_ran_somewhere_is_measured() -> None:
    artifact = Artifact("decoder", "onnx", "fp32", "decoder.fp32.onnx", "0" * 64, 1)
    for parity, expected in (
        ({}, False),
        ({"note": 3}, False),
        ({"tensorrt:cuda": {"psnr": None, "reason": "no GPU"}}, False),
        ({"tensorrt:cuda": {"psnr": None, "reason": "no GPU"}, "onnxruntime:cpu": PIXELS}, True),
    ):
        assert dataclasses.replace(artifact, parity=parity).is_measured is expected
