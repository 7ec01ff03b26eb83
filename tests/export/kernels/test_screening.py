"""Screening by halves changes no id: compiled kernels that screen and settle, against those that search in float32.

Both run in the PTX interpreter, whose tensor core makes errors as large as the kernels allow for. The golden cases are
screened in test_ptx.py.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from coda_export.folding import FoldedSearch
from coda_export.kernels import DEFAULT_TARGET, compile_quantizer, search_tables
from coda_runtime.backends.ptx import KernelSet, device_tables, make_plan
from coda_runtime.backends.ptx.screening import STEP
from tests.export.kernels.cases import SMALL_BLOCKS, make_spec
from tests.runtime.backends.ptx.interpreter.faults import RaceError, UninitialisedError
from tests.runtime.backends.ptx.interpreter.plan import run_plan

CODES, CHANNELS, SIDE = 700, 16, 3
SPEC = make_spec(CODES, (SIDE,), CHANNELS)
GROUP = STEP // 8
ALL, NONE = 1, 10**9


class Made:
    """Compiled kernels, which a failed test does not print."""

    def __init__(self, ptx: bytes, kernels: KernelSet) -> None:
        self.modules, self.kernels = kernels.modules(ptx), kernels


@pytest.fixture(scope="module")
def made() -> Made:
    """Kernels of three chunks, the last of them not full."""
    pytest.importorskip("triton")
    search = FoldedSearch(torch.zeros(CODES, CHANNELS + 1), torch.zeros(CODES, CHANNELS))
    return Made(*compile_quantizer(SPEC, search_tables(search), blocks=SMALL_BLOCKS)[DEFAULT_TARGET])


def ids_of(
    made: Made, table: np.ndarray, latent: np.ndarray, screen_from: int = ALL, programs: int = 2, bound: float = 1.0
) -> np.ndarray:
    """The ids by kernels that screen, with `bound` times what they allow for, or search; splits by `programs`."""
    kernels, search = made.kernels, FoldedSearch(torch.from_numpy(table), torch.zeros(CODES, CHANNELS))
    arrays = device_tables(kernels, SPEC, search_tables(search), np.zeros((CODES, CHANNELS), np.float32))
    arrays["bounds"] = (bound * arrays["bounds"]).astype(np.float32)
    plan = make_plan(kernels, SPEC, len(latent), programs=programs, screen_from=screen_from)
    assert ("screen" in {launch.kernel.function for launch in plan.launches}) == (screen_from == ALL)
    return run_plan(plan, made.modules, arrays, latent)


def latents(rows: np.ndarray) -> np.ndarray:
    """A latent whose tokens at the one scale are these rows, float32 [9, 16]."""
    return np.ascontiguousarray(rows.T.reshape(1, CHANNELS, SIDE, SIDE).astype(np.float32))


def near_ties(rng: np.random.Generator, table: np.ndarray) -> None:
    """Rows that differ in their last bits, in every chunk."""
    base = table[rng.integers(0, CODES, 3)]
    table[:] = base[rng.integers(0, 3, CODES)] * (1 + rng.integers(-3, 4, table.shape) * 2.0**-23)


def duplicates(rng: np.random.Generator, table: np.ndarray) -> None:
    """Every row many times."""
    table[:] = table[rng.integers(0, 20, CODES)]


def uneven(rng: np.random.Generator, table: np.ndarray) -> None:
    """Rows of very different lengths."""
    table *= 10.0 ** rng.integers(-6, 7, (CODES, 1))


def nothing(rng: np.random.Generator, table: np.ndarray) -> None:
    """Rows of zeros, with and without a bias."""
    table[:, :-1] = 0
    table[rng.random(CODES) < 0.5] = 0


def plain(rng: np.random.Generator, table: np.ndarray) -> None:
    """Rows as they come."""


@settings(max_examples=8, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    seed=st.integers(0, 2**32 - 1),
    change=st.sampled_from([near_ties, duplicates, uneven, nothing, plain]),
    size=st.sampled_from([1e-30, 1e-6, 0.02, 1.0, 300.0, 1e6, 1e30]),
    programs=st.sampled_from([1, 3]),
)
def test_ids_are_the_search_s_to_the_last_bit(made: Made, seed: int, change: Any, size: float, programs: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((CODES, CHANNELS + 1), np.float32)
    change(rng, table)
    rows = size * rng.standard_normal((SIDE * SIDE, CHANNELS), np.float32)
    rows[0] = 0
    latent = latents(rows)
    np.testing.assert_array_equal(ids_of(made, table, latent, ALL, programs), ids_of(made, table, latent, NONE))


# Of the two codes that come closest, where they stand: in other classes, in one class of two chunks, in one group.
PLACES = {"another class": (0, GROUP), "one class": (0, STEP), "another chunk": (STEP + 3, 2 * STEP + 5 * GROUP)}


def worst(low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Two codes that halves move by all that the bound allows: `high` is the best by a hair, `low` seems to be."""
    # Halfway between two halves, nearly, so that all of it is lost, and in the one direction that counts.
    almost = np.float32(1 + 0.99 * 2.0**-11)
    table = np.zeros((CODES, CHANNELS + 1), np.float32)
    table[high, :-1], table[low, :-1] = almost, -almost
    rows = np.full((SIDE * SIDE, CHANNELS), almost, np.float32)
    score = np.float64(almost) ** 2 * CHANNELS
    table[low, -1], table[high, -1] = 2 * score, 1e-4
    return table, latents(rows)


@pytest.mark.parametrize("place", PLACES)
def test_a_halved_bound_is_caught(place: str, made: Made) -> None:
    low, high = PLACES[place]
    table, latent = worst(low, high)
    assert (ids_of(made, table, latent, NONE) == high).all()
    assert (ids_of(made, table, latent, programs=1) == high).all()
    for bound in (0.5, 0.9):
        assert (ids_of(made, table, latent, programs=1, bound=bound) == low).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 7e4])
def test_rows_that_halves_cannot_hold_are_scored_whole(bad: float, made: Made) -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((CODES, CHANNELS + 1), np.float32)
    rows = rng.standard_normal((SIDE * SIDE, CHANNELS), np.float32)
    expected = ids_of(made, table, latents(rows), NONE)
    rows[4, 2] = bad
    screened, searched = ids_of(made, table, latents(rows)), ids_of(made, table, latents(rows), NONE)
    assert 0 <= screened.min() <= screened.max() < CODES
    np.testing.assert_array_equal(np.delete(screened, 4, 1), np.delete(expected, 4, 1))
    if np.isfinite(bad):
        np.testing.assert_array_equal(screened, searched)


@pytest.mark.parametrize(
    "pattern", [r"bar\.(?:warp\.)?sync\s+(?:0|-1);", r"cp\.async\.wait_group\s+0;"], ids=["barrier", "wait"]
)
def test_every_barrier_and_wait_is_missed(pattern: str, made: Made) -> None:
    """But for what stands after the last product, when shared memory is not read any more."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((CODES, CHANNELS + 1), np.float32)
    latent = latents(rng.standard_normal((SIDE * SIDE, CHANNELS), np.float32))
    (entry,) = (kernel.entry for kernel in made.kernels.of("screen"))
    text = made.modules[entry].decode()
    last = text.rfind("mma.sync")
    places = [found for found in re.finditer(pattern, text) if found.start() < last]
    assert places
    for found in places:
        changed = copy.copy(made)
        changed.modules = {**made.modules, entry: (text[: found.start()] + text[found.end() :]).encode()}
        with pytest.raises((RaceError, UninitialisedError)):
            ids_of(changed, table, latent, programs=1)
