"""How figures are written, and that each has its place in a result."""

from __future__ import annotations

from dataclasses import fields

import pytest

from coda_deploy.evaluate.metrics import METRICS, QUALITIES
from coda_deploy.evaluate.result import Quality


def test_every_metric_has_its_field() -> None:
    assert tuple(field.name for field in fields(Quality)) == QUALITIES


@pytest.mark.parametrize(
    ("key", "difference", "text"),
    [
        ("psnr", 1.237, "+1.24 dB"),
        ("psnr", -0.005, "-0.01 dB"),
        ("psnr", -0.00021, "-2e-04 dB"),
        ("lpips", 0.0, "+0.0000"),
        ("lpips", 3.1e-7, "+3e-07"),
    ],
)
def test_differences(key: str, difference: float, text: str) -> None:
    (metric,) = (metric for metric in METRICS if metric.key == key)
    assert metric.write_difference(difference) == text
    assert metric.write(25.0) == {"psnr": "25.00 dB", "lpips": "25.0000"}[key]


def test_minus_is_none_where_one_is() -> None:
    one, other = Quality(psnr=3.0, ssim=0.5, dists=1.0), Quality(psnr=2.0, lpips=0.5, dists=1.5)
    assert one.minus(other) == Quality(psnr=1.0, dists=-0.5)
