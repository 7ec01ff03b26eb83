"""Parity's numbers, on cases that can be counted by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from coda_runtime.parity import mean_psnr, pixel_parity, psnr_loss, token_parity
from tests.runtime import measurable, tiny


def pictures(*levels: int) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


def test_shares_in_all_and_per_scale() -> None:
    ids = np.arange(10, dtype=np.int32).reshape(2, 5)
    step, free = ids.copy(), ids.copy()
    step[0, 1] += 1
    free[:, 1:] += 1
    assert token_parity(ids, free, step, (1, 2)) == {
        "step_agreement": pytest.approx(0.9),
        "step_agreement_per_scale": [1.0, pytest.approx(7 / 8)],
        "agreement": pytest.approx(0.2),
        "agreement_per_scale": [1.0, 0.0],
    }


def test_a_flip_counts_once_for_step_agreement() -> None:
    """A port that flips its first id and is right from there on, given what that id left."""
    reference = measurable.NumpyReference()
    latent = reference.latent(tiny.photos(1))
    free = reference.encode(latent)
    ids = free.copy()
    ids[0, 0] = (ids[0, 0] + 1) % tiny.CODES
    for start, stop in ((1, 5), (5, 21)):  # scale by scale, take what the reference would say to the port's earlier ids
        ids[:, start:stop] = reference.step(latent, ids)[:, start:stop]
    parity = token_parity(ids, free, reference.step(latent, ids), tiny.SCALES)
    assert parity["step_agreement"] == pytest.approx(20 / 21)
    assert parity["step_agreement_per_scale"] == [0.0, 1.0, 1.0]
    assert parity["agreement"] < parity["step_agreement"]


def test_mean_psnr() -> None:
    assert mean_psnr(pictures(10, 20), pictures(10, 20)) is None
    one = 10 * math.log10(255**2 / 5**2)
    assert mean_psnr(pictures(10), pictures(15)) == pytest.approx(one)
    # An identical pair has no PSNR in dB, and takes no part in the mean.
    assert mean_psnr(pictures(10, 20), pictures(10, 25)) == pytest.approx(one)
    two = 10 * math.log10(255**2 / 1)
    assert mean_psnr(pictures(10, 20), pictures(15, 21)) == pytest.approx((one + two) / 2)


def test_pixel_parity() -> None:
    numbers = pixel_parity(pictures(10), pictures(12), pictures(12))
    assert numbers["psnr"] is None
    assert numbers["psnr_to_input"] == numbers["reference_psnr_to_input"] == pytest.approx(10 * math.log10(255**2 / 4))


def test_one_black_image_shows_in_the_minimum_not_in_the_mean() -> None:
    reference = pictures(*[200] * 8)
    decoded = pictures(*[201] * 8)
    decoded[5] = 0
    numbers = pixel_parity(reference, decoded, reference)
    black = 10 * math.log10(255**2 / 200**2)
    assert numbers["psnr_min"] == pytest.approx(black)
    assert numbers["psnr"] == pytest.approx((7 * 10 * math.log10(255**2) + black) / 8)
    assert pixel_parity(reference, reference, reference)["psnr_min"] is None
    # Identical pictures are no worst one.
    decoded[:5] = 200
    assert pixel_parity(reference, decoded, reference)["psnr_min"] == numbers["psnr_min"]


def test_what_a_reconstruction_loses() -> None:
    inputs, theirs, ours = pictures(100, 100, 100), pictures(101, 102, 100), pictures(102, 102, 101)
    identical = 10 * math.log10(255 * 255 * inputs[0].size)
    last = identical - 10 * math.log10(255 * 255)
    drops = 20 * math.log10(2), 0, last
    assert psnr_loss(inputs, ours, theirs) == {
        "psnr_drop": pytest.approx(sum(drops) / 3),
        "psnr_drop_error": pytest.approx(statistics.stdev(drops) / math.sqrt(3)),
        "psnr_drop_max": pytest.approx(last),
    }
    gain = psnr_loss(inputs[:1], theirs[:1], ours[:1])
    assert gain["psnr_drop_error"] == 0
    assert gain["psnr_drop"] == gain["psnr_drop_max"] == pytest.approx(-20 * math.log10(2))
