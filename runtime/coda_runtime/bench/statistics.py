"""What samples of a duration say: percentiles, and intervals that need no normal distribution.

Durations have a long tail and neighbours that resemble each other, so nothing here takes a mean and a standard
deviation for a measurement. Samples are in the order in which they were taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..io.counts import count

Samples = Sequence[float] | npt.NDArray[np.float64]

KNOWN_FROM: Mapping[int, int] = {90: 64, 99: 662}
"""The samples from which a percentile is known, by MLPerf Inference's rule of early stopping."""

MIN_PROCESSES = 5
"""Of either side, for an interval of 99 % that rests on the order of their numbers alone: 2 / C(10, 5) = 0.8 %."""

MIN_PAIRS = 8
"""For an interval of 99 % of the median of pairs: 2 / 2**8 = 0.8 %."""

PAIRS = 12
"""From so many on, one odd pair on either side is not the interval's end."""


def percentile(samples: Samples, q: float) -> float:
    """Return the q-th percentile, q from 0 to 100, interpolated linearly between samples, as numpy.percentile.

    Raises InputError for no samples, for values that are not finite, and for q outside 0 to 100.
    """
    values = _checked(samples)
    if not 0 <= q <= 100:
        raise InputError(f"q is {q!r}; expected a percentage from 0 to 100")
    return float(np.percentile(values, q))


def median_ci(samples: Samples, level: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval of the median: the two order statistics that enclose it with at least `level`.

    Whatever the distribution, for samples that do not depend on each other. Fewer than 6 samples cannot
    reach 95 %: their extremes are returned, which enclose the median with 1 - 2 / 2**n. Raises InputError as
    `percentile`.
    """
    values = np.sort(_checked(samples))
    n = len(values)
    # The number of samples under the median is binomial (n, 1/2).
    below = _binomial_cdf(n, 0.5)
    # [x(r), x(n+1-r)] misses the median when fewer than r samples lie on one side of it.
    allowed = (1 - _checked_level(level)) / 2
    rank = min(max(int(np.searchsorted(below, allowed, side="right")), 1), (n + 1) // 2)
    return float(values[rank - 1]), float(values[n - rank])


def outliers(samples: Samples) -> int:
    """Count those that lie more than three interquartile ranges outside the quartiles (Tukey's outer fence)."""
    values = _checked(samples)
    low, high = np.percentile(values, [25, 75])
    reach = 3 * (high - low)
    return int(np.count_nonzero((values < low - reach) | (values > high + reach)))


def is_stable(samples: Samples, *, block: int | None = None, tolerance: float = 0.02) -> bool:
    """Return whether the medians of the last two blocks are within `tolerance` of the smaller: the warm-up is over.

    A block is a quarter of the samples, at least 5, so that what is noisy gets longer blocks until they agree; or
    `block` of them. False while there are fewer than two blocks.
    """
    size = max(5, len(samples) // 4) if block is None else block
    if size < 1:
        raise InputError(f"block is {block!r}; expected a whole number from 1")
    if len(samples) < 2 * size:
        return False
    values = _checked(samples)
    earlier, later = float(np.median(values[-2 * size : -size])), float(np.median(values[-size:]))
    return abs(later - earlier) <= tolerance * min(earlier, later)


def upper_bound(samples: Samples, q: float, level: float = 0.95) -> float | None:
    """Return what the q-th percentile does not exceed with confidence `level`: an order statistic.

    None where there are too few samples for one: under 299 for the 99th percentile at 95 %. Raises InputError as
    `percentile`.
    """
    values, share = np.sort(_checked(samples)), q / 100
    # The number of samples under the percentile is binomial (n, q): x(k) bounds it unless k or more of them are.
    enough = np.flatnonzero(_binomial_cdf(len(values), share) >= _checked_level(level))
    rank = int(enough[0]) + 1
    return float(values[rank - 1]) if rank <= len(values) else None


def ratio_interval(a: Samples, b: Samples, level: float = 0.99) -> tuple[float, float] | None:
    """Return an interval of the factor between two machines' or runs' numbers, one number a process: b over a.

    Exact for any distribution, by the ranks of Mann and Whitney (Hodges and Lehmann, 1963): the quotients of all pairs,
    less as many at either end as `level` allows. Samples inside a process resemble each other; processes, started one
    after the other, differ by what the next one will differ by too. None where they are too few for `level`:
    `MIN_PROCESSES` on either side for 99 %. Raises InputError for values that are not positive and finite.
    """
    before, after = _positive(a), _positive(b)
    tail = (1 - _checked_level(level)) / 2
    cut = int(np.count_nonzero(np.cumsum(_mann_whitney(len(before), len(after))) <= tail))
    if not cut:
        return None
    ratios = np.sort(np.divide.outer(after, before).ravel())
    return float(ratios[cut - 1]), float(ratios[len(ratios) - cut])


def pairs_interval(a: Samples, b: Samples, level: float = 0.99) -> tuple[float, float] | None:
    """Return an interval of the median factor of pairs, b over a: what slows both of a pair down is not in it.

    None for fewer pairs than `level` needs, `MIN_PAIRS` for 99 %. Raises InputError as `ratio_interval`, and where one
    side has more.
    """
    before, after = _positive(a), _positive(b)
    if len(before) != len(after):
        raise InputError(f"pairs of {len(before)} and {count(len(after), 'value')}; expected as many on either side")
    if 2.0 ** (1 - len(before)) > 1 - _checked_level(level):
        return None
    return median_ci(after / before, level)


def _mann_whitney(m: int, n: int) -> npt.NDArray[np.float64]:
    """Return the chances of each number of inversions between m and n values in random order, float64 [m * n + 1]."""
    # counts[j]: arrangements of i and j values by their inversions, for a growing i.
    counts = [np.ones(1) for _ in range(n + 1)]
    for i in range(1, m + 1):
        for j in range(1, n + 1):
            # The largest of all is one of the i, over all j others, or one of the j.
            grown = np.zeros(i * j + 1)
            grown[j : j + len(counts[j])] += counts[j]
            grown[: len(counts[j - 1])] += counts[j - 1]
            counts[j] = grown
    chances: npt.NDArray[np.float64] = counts[n] / counts[n].sum()
    return chances


def _binomial_cdf(n: int, p: float) -> npt.NDArray[np.float64]:
    """Return P(count <= k) for k from 0 to n; in logarithms, since p**n underflows."""
    k = np.arange(1, n + 1)
    log_odds = math.log(p) - math.log1p(-p)
    log_p = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k) + log_odds)]) + n * math.log1p(-p)
    return np.cumsum(np.exp(log_p))


def _checked(samples: Samples) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError(
            f"samples are {count(values.size, 'value')} of shape {list(values.shape)}; expected finite ones, [N]"
        )
    return values


def _positive(samples: Samples) -> npt.NDArray[np.float64]:
    values = _checked(samples)
    if not (values > 0).all():
        raise InputError(f"a ratio needs positive values, found {float(values.min())!r}")
    return values


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; expected a share between 0 and 1, such as 0.95")
    return level
