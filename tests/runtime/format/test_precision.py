"""The table of precisions, and what is said of one that is not in it."""

from __future__ import annotations

import pytest

from coda_runtime import InputError
from coda_runtime.format.precision import DEFAULT_THRESHOLDS, PRECISIONS, Threshold, precision_of


def test_every_precision_is_held_to_something() -> None:
    assert list(DEFAULT_THRESHOLDS) == list(PRECISIONS)
    agreements = [threshold.min_agreement for threshold in DEFAULT_THRESHOLDS.values()]
    assert agreements == sorted(agreements, reverse=True)


def test_only_float32_is_not_lowered() -> None:
    assert [name for name, known in PRECISIONS.items() if known.is_float32] == ["fp32"]
    assert all(known.is_lowered != known.is_float32 for known in PRECISIONS.values())


def test_an_unknown_precision_has_no_exceptions() -> None:
    unknown = precision_of("int4")
    assert (unknown.name, unknown.threshold, unknown.openvino_hint) == ("int4", None, None)
    assert (unknown.onnxruntime_cpu, unknown.is_float32, unknown.is_lowered) == (True, False, False)
    assert precision_of("bf16") is PRECISIONS["bf16"]


@pytest.mark.parametrize("bad", [(1.1, 50.0), (-0.1, 50.0), (0.9, float("nan")), (0.9, float("inf"))])
def test_a_threshold_that_lets_everything_through(bad: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="a threshold must be an agreement from 0 to 1 and a finite PSNR"):
        Threshold(*bad)


def test_the_worst_image_may_lose_four_times_the_mean() -> None:
    assert Threshold(0, 42, 0.1).worst_drop == pytest.approx(0.4)
    assert Threshold(0, 42).worst_drop is None
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="greatest loss of PSNR must be a finite number"):
            Threshold(0, 42, bad)
