"""What is a near tie and what is broken, and what the table shows of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.portability import comparison
from coda_runtime.backends.ptx import SearchTables
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.format.spec import Spec

SPEC = Spec("test", 32, 8, 3, 29, (1, 2, 4), 21)
RNG = np.random.default_rng(0)
QUANTIZER = NumpyQuantizer(
    SPEC, SearchTables(RNG.standard_normal((29, 4), np.float32)), RNG.standard_normal((29, 3), np.float32)
)
LATENT = RNG.standard_normal((2, 3, 4, 4), np.float32)
PIXELS = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)


def row(**changes: Any) -> dict[str, Any]:
    """A processor on which everything is as here."""
    ids = {name: {"equal": 42, "of": 42, "step_agreement": 1.0} for name in ("mar", "flux", "sample")}
    found = {"ids": ids, "pixels_equal": True, "decode_psnr": None, "psnr_to_input": 25.0, "not_in_effect": []}
    return found | {"seen": {"processor": "AVX2"}, "seconds": {"encode": 1.0, "decode": 2.5}} | changes


def test_ids_are_judged_step_by_step() -> None:
    ids = QUANTIZER.ids(LATENT)
    assert comparison.compare_ids(ids, ids, LATENT, QUANTIZER) == {"equal": 42, "of": 42, "step_agreement": 1.0}
    # The last scale's last token leaves no residual behind it: one wrong id is one.
    wrong = ids.copy()
    wrong[0, -1] = (wrong[0, -1] + 1) % 29
    assert comparison.compare_ids(wrong, ids, LATENT, QUANTIZER) == {"equal": 41, "of": 42, "step_agreement": 41 / 42}


def test_the_worst_image_counts_and_identical_ones_are_none() -> None:
    native = {"pixels": PIXELS, "decoded": PIXELS, "rebuilt": PIXELS}
    same = comparison.compare_images(native, native)
    assert same == {"pixels_equal": True, "decode_psnr": None, "psnr_to_input": None}
    off = PIXELS.copy()
    off[0] ^= 1
    off[1, 0, 0, 0] ^= 1
    found = comparison.compare_images({"pixels": off, "decoded": off, "rebuilt": off}, native)
    assert not found["pixels_equal"]
    assert found["decode_psnr"] == pytest.approx(48.13, abs=0.01)
    assert found["psnr_to_input"] > found["decode_psnr"]


def test_chosen_pictures_may_differ_and_reproducible_ones_may_not() -> None:
    ids = np.arange(8).reshape(2, 4)
    here = {"chosen": ids, "reproducible_small_ids": ids, "reproducible_small_latents": LATENT}
    assert comparison.compare_chosen(here, here) == {"chosen": [0, 0], "reproducible": True}
    assert comparison.compare_chosen({"chosen": ids}, here) == {"chosen": [0, 0], "reproducible": None}
    off = here | {"chosen": ids // 2 * 2, "reproducible_small_latents": np.nextafter(LATENT, np.float32(9))}
    assert comparison.compare_chosen(off, here) == {"chosen": [2, 2], "reproducible": False}
    rows = {"here": row(chosen=[0, 0], reproducible=True), "old": row(chosen=[2, 2], reproducible=None)}
    assert comparison.chosen_table(rows)[2:] == ["| here | 0, 0 | identical |", "| old | 2, 2 | not there |"]
    assert comparison.broken(rows["old"]) == []


def test_near_ties_and_roundings_are_not_broken() -> None:
    tied = {"mar": {"equal": 1340, "of": 1360, "step_agreement": 0.9993}}
    assert comparison.broken(row()) == []
    assert comparison.broken(row(ids=tied, decode_psnr=55.0, tests={"exit": 0, "summary": "1 passed in 1.00s"})) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ids": {"mar": {"equal": 1358, "of": 1360, "step_agreement": 0.9985}}}, "mar: step agreement 99.850 %"),
        ({"decode_psnr": 54.9}, "54.9 dB from this machine's, expected 55 dB"),
        ({"pixels_equal": False}, "other pixels"),
        ({"reproducible": False}, "load(reproducible=True) computes something else"),
        ({"not_in_effect": ["ATen runs as AVX512, expected AVX2"]}, "ATen runs as AVX512, expected AVX2: the switch"),
        ({"tests": {"exit": 1, "summary": "1 failed in 1.00s"}}, "the numeric tests failed: 1 failed"),
    ],
)
def test_what_is_broken_is_reported(changes: dict[str, Any], told: str) -> None:
    (line,) = comparison.broken(row(**changes))
    assert told in line


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("....\n7 failed, 529 passed in 414.11s (0:06:54)\n", "7 failed, 529 passed in 414.11s (0:06:54)"),
        ("==== 3 passed, 1 skipped in 0.50s ====\n", "3 passed, 1 skipped in 0.50s"),
        ("Killed\n", "pytest did not say how it ended"),
    ],
)
def test_the_line_that_pytest_ends_with(output: str, expected: str) -> None:
    assert comparison.closing_line(output) == expected


def test_the_table_has_a_cell_a_column() -> None:
    forced = row(seen={"ATen": "DEFAULT", "processor": "AVX-512"}, decode_psnr=92.04)
    forced["tests"] = {"exit": 0, "summary": "529 passed in 60.00s"}
    lines = comparison.table({"here": row(), "held": forced})
    assert len({line.count("|") for line in lines}) == 1
    equal = " | ".join(["42 of 42"] * 3)
    assert lines[2] == f"| here | AVX2 | {equal} | 100 % | identical | 25.00 dB | 3.5 |  |"
    assert lines[3] == f"| held | DEFAULT | {equal} | 100 % | 92.0 dB | 25.00 dB | 3.5 | 529 passed |"
