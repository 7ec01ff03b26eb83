"""What is the best: of a latency, of a rate, and of a rate under a bound."""

from __future__ import annotations

import math

import pytest

from coda_runtime import InputError
from coda_runtime.tune.aims import Aim, Row


def row(setting: int, batch: int, latency_s: float, final: bool = True) -> Row:
    return Row(setting, "encode", batch, latency_s, 3, False, final)


# 10, 8, 20 and 40 images per second.
ONE, SLOW, EIGHT, LARGE = row(0, 1, 0.1), row(1, 1, 0.125), row(0, 8, 0.4), row(1, 32, 0.8)
ROWS = [LARGE, SLOW, EIGHT, ONE]


@pytest.mark.parametrize(
    ("aim", "ranked"),
    [
        (Aim(), [ONE, SLOW, EIGHT, LARGE]),
        (Aim(throughput=True), [LARGE, EIGHT, ONE, SLOW]),
        (Aim(bound_s=0.5), [EIGHT, ONE, SLOW, LARGE]),
        (Aim(bound_s=0.11), [ONE, SLOW, EIGHT, LARGE]),
        (Aim(bound_s=0.01), [ONE, SLOW, EIGHT, LARGE]),
    ],
    ids=str,
)
def test_ranked(aim: Aim, ranked: list[Row]) -> None:
    assert aim.ranked(ROWS) == ranked
    kept = aim.bound_s is None or ranked[0].latency_s < aim.bound_s
    assert aim.best(ROWS) == (ranked[0] if kept else None)


def test_what_was_measured_once_is_never_the_best() -> None:
    assert Aim().best([row(0, 1, 0.05, final=False), ONE]) == ONE
    assert Aim().best([]) is None


def test_batches_and_words() -> None:
    assert (Aim().batches, Aim(throughput=True).batches, Aim(bound_s=1.0).batches) == ((1,), (1, 8), (1, 8))
    assert str(Aim(bound_s=0.05)) == "the most images per second with a median latency under 50 ms"


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_bound(bound: float) -> None:
    with pytest.raises(InputError, match="expected milliseconds, over 0"):
        Aim(bound_s=bound)
