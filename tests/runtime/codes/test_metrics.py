from __future__ import annotations

import math

import numpy as np
import pytest

from coda_runtime import ImageError
from coda_runtime.codes.metrics import json_number, percent, psnr, psnr_per_image
from coda_runtime.format.parity import Measured
from coda_runtime.parity.rows import agreement_text
from coda_runtime.report import words
from tests.runtime import tiny

pytestmark = pytest.mark.numeric


def test_psnr_is_the_mean_over_images() -> None:
    a = tiny.photos(2)
    b = a.copy()
    b[0] ^= 1
    b[1] = np.where(a[1] < 128, a[1] + 10, a[1] - 10)
    expected = [10 * math.log10(255**2 / 1), 10 * math.log10(255**2 / 100)]
    np.testing.assert_allclose(psnr_per_image(a, b), expected)
    assert psnr(a, b) == pytest.approx(np.mean(expected))


def test_differences_do_not_wrap_around() -> None:
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0


def test_identical_images_are_infinite_and_null_in_json() -> None:
    a = tiny.photos(1)
    assert psnr(a, a) == math.inf
    assert json_number(psnr(a, a)) is None
    assert json_number(math.nan) is None
    assert json_number(3) == 3.0


def test_other_arrays_are_rejected() -> None:
    a = tiny.photos(2)
    for wrong in (a[:1], a.astype(np.float32), a[0]):
        with pytest.raises(ImageError, match="expected two uint8 arrays"):
            psnr(a, wrong)
    with pytest.raises(ImageError, match="at least one image"):
        psnr(a[:0], a[:0])


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100 %"), (0.999999, "99.999 %"), (0.9995, "99.950 %"), (0.0, "0.000 %"), (1.5, "150.000 %")],
)
def test_only_a_whole_share_is_written_as_100_percent(share: float, text: str) -> None:
    assert percent(share) == text
    assert agreement_text(Measured({"step_agreement": share})) == words.share(share) == text


def test_fewer_digits_are_cut_too() -> None:
    assert [percent(share, 1) for share in (0.99999, 0.12345, 1.0)] == ["99.9 %", "12.3 %", "100 %"]
