from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coda_deploy.data import DataError, EvalBatch, centre_batches, open_source
from coda_deploy.data.array import ArraySource
from coda_runtime import ImageError, InputError
from coda_runtime.images import fit
from coda_runtime.io.counts import count as count_of
from tests.deploy.data.sample_images import write_folder

WORKERS = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
ARRAY = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)


class Holes(ArraySource):
    """An array in which some images cannot be read."""

    def __init__(self, count: int, bad: set[int]) -> None:
        super().__init__(ARRAY[:count])
        self.bad = bad

    def __reduce__(self) -> Any:
        return Holes, (len(self), self.bad)

    def image(self, index: int) -> Image.Image:
        if index in self.bad:
            raise ImageError(f"hole\n{index}")
        return super().image(index)


def _all(source: ArraySource, size: int = 8, batch_size: int = 4, **settings: Any) -> list[EvalBatch]:
    with closing(centre_batches(source, size, batch_size, **settings)) as batches:
        return list(batches)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=WORKERS)])
def test_files_go_by_the_official_rule_in_order(tmp_path: Path, workers: int) -> None:
    folder = write_folder(tmp_path / "images", 5)
    (folder / "03.png").write_text("not an image")
    with closing(centre_batches(open_source(folder), 32, 3, workers=workers)) as batches:
        first, second = batches
    assert [Path(name).name for name in first.names + second.names] == ["00.png", "01.png", "02.png", "04.png"]
    for batch in (first, second):
        assert batch.images.dtype == np.uint8
        np.testing.assert_array_equal(batch.images, np.stack([fit(name, 32) for name in batch.names]))
    (skipped,) = first.skipped + second.skipped
    assert Path(skipped.name).name == "03.png"
    assert "is not an image" in skipped.reason


@settings(max_examples=80)
@given(count=st.integers(1, 30), batch_size=st.integers(1, 9), limit=st.none() | st.integers(1, 40), data=st.data())
def test_every_image_comes_once_or_is_reported(
    count: int, batch_size: int, limit: int | None, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    taken = min(count, limit or count)
    indices = [position * count // taken for position in range(taken)]
    good = [index for index in indices if index not in bad]
    source = Holes(count, bad)
    if not good:
        with pytest.raises(
            DataError, match=rf"^none of {count_of(taken, 'image')} can be read; the first, array\[0\]: hole 0$"
        ):
            _all(source, batch_size=batch_size, limit=limit)
        return
    batches = _all(source, batch_size=batch_size, limit=limit)
    assert [name for batch in batches for name in batch.names] == [f"array[{index}]" for index in good]
    # Untouched: the array has the size that was asked for.
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), ARRAY[good])
    skipped = [skipped.name for batch in batches for skipped in batch.skipped]
    assert skipped == [f"array[{index}]" for index in indices if index in bad]
    assert all(len(batch.names) == len(batch.images) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1].names) <= batch_size


def test_a_limit_is_spread_over_the_source() -> None:
    (batch,) = _all(ArraySource(ARRAY), limit=3)
    assert batch.names == ("array[0]", "array[10]", "array[20]")


class Breaks(Holes):
    def image(self, index: int) -> Image.Image:
        raise DataError("the shard has changed")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=WORKERS)])
def test_a_broken_source_ends_it_with_its_own_words(workers: int) -> None:
    with pytest.raises(DataError, match=r"^the shard has changed$"):
        _all(Breaks(3, set()), workers=workers)


def test_an_empty_source_is_rejected() -> None:
    class Empty(ArraySource):
        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="the source holds no images"):
        _all(Empty(ARRAY))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"batch_size": 0}, {"limit": 0}, {"workers": -1}])
def test_numbers_that_do_not_fit_are_rejected_at_once(wrong: dict[str, int]) -> None:
    numbers: dict[str, Any] = {"size": 8, "batch_size": 4, **wrong}
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be a whole number"):
        centre_batches(ArraySource(ARRAY), **numbers)
