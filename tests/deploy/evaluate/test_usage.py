from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coda_deploy.evaluate.usage import Agreement, CodeCounts, columns, perplexity, utilization
from coda_runtime.format.spec import Spec

SPEC = Spec("tiny", 16, 4, 4, 8, (1, 2, 4), 21)
IDS = hnp.arrays(np.int32, st.tuples(st.integers(1, 5), st.just(21)), elements=st.integers(0, 7))


@given(st.lists(IDS, min_size=1, max_size=4))
def test_counts_are_those_of_a_plain_loop(batches: list[np.ndarray]) -> None:
    counted = CodeCounts(SPEC)
    for ids in batches:
        counted.add(ids)
    rows = [row for ids in batches for row in ids.tolist()]
    for scale, (start, stop) in enumerate([(0, 1), (1, 5), (5, 21)]):
        expected = Counter(token for row in rows for token in row[start:stop])
        assert dict(enumerate(counted.counts[scale].tolist())) == {code: expected[code] for code in range(8)}
    seen = Counter(token for row in rows for token in row)
    assert counted.total.tolist() == [seen[code] for code in range(8)]
    assert utilization(counted.total) == len(seen) / 8
    entropy = -sum(n / seen.total() * math.log(n / seen.total()) for n in seen.values())
    assert perplexity(counted.total) == pytest.approx(math.exp(entropy))


@given(IDS, st.data())
def test_batches_add_up_to_the_whole(ids: np.ndarray, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ids)))
    whole, parts = CodeCounts(SPEC), CodeCounts(SPEC)
    whole.add(ids)
    parts.add(ids[:cut])
    parts.add(ids[cut:])
    np.testing.assert_array_equal(whole.counts, parts.counts)


def test_perplexity_by_hand() -> None:
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert perplexity(np.array([0, 9, 0])) == pytest.approx(1)
    # Half, a quarter, a quarter: 1.5 bits.
    assert perplexity(np.array([2, 1, 1])) == pytest.approx(2**1.5)
    assert math.isnan(perplexity(np.zeros(4, np.int64)))


def test_utilization_is_the_share_of_codes_seen() -> None:
    assert utilization(np.array([0, 3, 0, 1])) == 0.5
    assert utilization(np.array([1, 1])) == 1


def test_columns_are_the_scales() -> None:
    assert list(columns(SPEC)) == [slice(0, 1), slice(1, 5), slice(5, 21)]


@given(IDS, st.data())
def test_agreement_counts_equal_positions(ids: np.ndarray, data: st.DataObject) -> None:
    changed = data.draw(hnp.arrays(bool, ids.shape))
    found = Agreement(SPEC)
    found.add(ids, np.where(changed, (ids + 1) % 8, ids))
    assert found.share == pytest.approx(1 - changed.mean())
    assert found.per_scale == pytest.approx([1 - changed[:, where].mean() for where in columns(SPEC)])
    found.add(ids, ids)
    assert found.share == pytest.approx(1 - changed.mean() / 2)
