from __future__ import annotations

from coda_runtime.io.counts import count, plural


def test_one_is_one() -> None:
    assert [count(n, "image") for n in (0, 1, 2, 16384)] == ["0 images", "1 image", "2 images", "16,384 images"]
    assert [count(n, "process", "processes") for n in (1, 2)] == ["1 process", "2 processes"]
    assert [plural(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]
