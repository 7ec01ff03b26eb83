from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common import Others, in_fresh_process, interleaved_times, paired_ratio, peak_memory

ROOT = Path(__file__).parents[2]
SECONDS = st.floats(0.01, 10)


@pytest.mark.parametrize(("warm", "order"), [(False, "abccbaabccba"), (True, "cbaabccba")])
def test_candidates_take_turns_and_a_round_to_warm_up_is_not_timed(warm: bool, order: str) -> None:
    ran: list[str] = []
    times = interleaved_times({name: partial(ran.append, name) for name in "abc"}, 3, warm=warm)
    assert "".join(ran) == order
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys("abc", 3)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=40))
def test_ratio_is_of_rounds(rounds: list[tuple[float, float]]) -> None:
    times, baseline = zip(*rounds, strict=True)
    found = paired_ratio(times, baseline)
    ratios = [a / b for a, b in rounds]
    assert found.median == statistics.median(ratios)
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)


@given(st.lists(SECONDS, min_size=1, max_size=40), st.floats(0.5, 2))
def test_what_slows_a_round_falls_out(baseline: list[float], factor: float) -> None:
    found = paired_ratio([factor * seconds for seconds in baseline], baseline)
    assert all(math.isclose(value, factor) for value in (found.median, found.low, found.high))


@pytest.mark.parametrize(("n", "rank"), [(5, 1), (6, 1), (9, 2), (20, 6), (100, 40)])
def test_interval_is_the_textbook_one(n: int, rank: int) -> None:
    """The ranks that tables of the sign test give for 95 %; with 5 samples the range is all there is."""
    found = paired_ratio(range(1, n + 1), [1.0] * n)
    assert (found.low, found.high) == (rank, n + 1 - rank)


def _allocate(mib: int) -> tuple[float, int]:
    before = peak_memory()
    block = bytearray(mib << 20)
    block[::4096] = b"x" * len(block[::4096])
    return peak_memory() - before, os.getpid()


def test_peak_is_of_a_process_of_its_own() -> None:
    grown = [in_fresh_process(_allocate, mib) for mib in (100, 10)]
    assert 100 <= grown[0][0] < 130
    assert 10 <= grown[1][0] < 40, "the first process's peak must not count"
    assert all(a[1] != b[1] for a, b in pairwise([*grown, (0.0, os.getpid())]))


def test_own_work_is_not_others() -> None:
    others = Others()
    sum(range(3_000_000))
    assert 0 <= others.share() <= 1


def test_memory_of_the_runtime_is_without_pytorch() -> None:
    code = "import sys, benchmarks.bench_curves; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
