"""What samples of a duration say: percentiles, and intervals that need no normal distribution.

Durations have a long tail and neighbours that resemble each other, so nothing here takes a mean and a standard
deviation for a measurement. Samples are in the order in which they were taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Samples = Sequence[float] | npt.NDArray[np.float64]

MIN_SAMPLES = 6
"""The smallest number of samples whose extremes hold the median with 95 % confidence: 1 - 2 / 2**6 = 96.9 %."""

_BOOTSTRAP = 20
_RESAMPLES = 1000
_SEED = 20250101
_CHUNK = 1 << 21  # indices at a time: 16 MiB


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

    Whatever the distribution, for samples that do not depend on each other. Fewer than `MIN_SAMPLES` samples cannot
    reach 95 %: their extremes are returned, which enclose the median with 1 - 2 / 2**n. Raises InputError as
    `percentile`.
    """
    values = np.sort(_checked(samples))
    n = len(values)
    # The number of samples under the median is binomial (n, 1/2): P(count = k) as logarithms, since 2**-n underflows.
    k = np.arange(1, n + 1)
    log_p = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))]) - n * math.log(2)
    below = np.cumsum(np.exp(log_p))
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


def ratio_ci(a: Samples, b: Samples, level: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval of median(b) / median(a), for positive samples; it holds the measured ratio.

    A bootstrap of `a` and of `b` in blocks of neighbours, as long as the cube root of their number: slow drifts then
    widen the interval, as they should. Under `_BOOTSTRAP` samples it would be too narrow: there it is the quotient of
    the two intervals of `median_ci`, which is wider than it needs to be. It knows nothing of what differs between two
    processes or two days. The same samples give the same interval.

    Raises InputError for fewer than `MIN_SAMPLES` samples, and for samples that are not positive and finite.
    """
    tail = (1 - _checked_level(level)) / 2
    before, after = (_positive(samples) for samples in (a, b))
    if min(len(before), len(after)) < _BOOTSTRAP:
        (low_a, high_a), (low_b, high_b) = median_ci(before, level), median_ci(after, level)
        return low_b / high_a, high_b / low_a
    random = np.random.default_rng(_SEED)
    ratios = _medians(after, random) / _medians(before, random)
    low, high = (float(edge) for edge in np.quantile(ratios, [tail, 1 - tail]))
    measured = float(np.median(after) / np.median(before))
    return min(low, measured), max(high, measured)


def _medians(values: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return medians of resampled series, float64 [_RESAMPLES]. Blocks wrap around: each sample is drawn alike."""
    n = len(values)
    length = max(1, round(n ** (1 / 3)))
    blocks = -(-n // length)
    rows = max(1, _CHUNK // (blocks * length))
    medians = []
    for start in range(0, _RESAMPLES, rows):
        count = min(rows, _RESAMPLES - start)
        starts = random.integers(0, n, (count, blocks, 1))
        index = ((starts + np.arange(length)) % n).reshape(count, -1)[:, :n]
        medians.append(np.median(values[index], axis=1))
    return np.concatenate(medians)


def _checked(samples: Samples) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError(f"samples are {values.size} values of shape {list(values.shape)}; expected finite ones, [N]")
    return values


def _positive(samples: Samples) -> npt.NDArray[np.float64]:
    values = _checked(samples)
    if len(values) < MIN_SAMPLES or not (values > 0).all():
        raise InputError(f"a ratio needs at least {MIN_SAMPLES} positive samples on either side, found {len(values)}")
    return values


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; expected a share between 0 and 1, such as 0.95")
    return level
