from __future__ import annotations

import itertools
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coda_deploy.data import Crop, DataError, TrainBatch, TrainLoader, open_source
from coda_deploy.data.array import ArraySource
from coda_deploy.data.loader import _rng
from coda_runtime import ImageError, InputError
from tests.deploy.data.sample_images import encode, photo, write_folder, write_tar

# From Python 3.12 on a fork beside threads is warned of.
WORKERS = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
TINY = np.random.default_rng(0).integers(0, 256, (40, 9, 11, 3), np.uint8)
TINY_CROP = Crop(8, flip=True, zoom_max=1.5)


def _take(loader: TrainLoader, count: int, start: int = 0) -> list[TrainBatch]:
    with closing(loader.batches(start)) as batches:
        return list(itertools.islice(batches, count))


def _joined(batches: list[TrainBatch]) -> tuple[torch.Tensor, list[str]]:
    return torch.cat([batch.images for batch in batches]), [name for batch in batches for name in batch.names]


def _assert_equal(one: list[TrainBatch], other: list[TrainBatch]) -> None:
    assert _joined(one)[1] == _joined(other)[1]
    assert torch.equal(_joined(one)[0], _joined(other)[0])


@settings(max_examples=80)
@given(
    total=st.integers(1, 40),
    batch_size=st.integers(1, 7),
    world=st.integers(1, 4),
    start=st.integers(0, 30),
    seed=st.integers(0, 2**64 - 1),
)
def test_many_processes_see_what_one_sees(total: int, batch_size: int, world: int, start: int, seed: int) -> None:
    source = ArraySource(TINY[:total])
    ranks = [
        TrainLoader(source, TINY_CROP, batch_size=batch_size, seed=seed, rank=rank, world=world).batches(start)
        for rank in range(world)
    ]
    alone = TrainLoader(source, TINY_CROP, batch_size=batch_size * world, seed=seed).batches(start)
    for number, whole in zip(range(3), alone, strict=False):
        _assert_equal([next(rank) for rank in ranks], [whole])
        assert whole.images.shape == (batch_size * world, 8, 8, 3), number


@settings(max_examples=40)
@given(total=st.integers(1, 40), batch_size=st.integers(1, 7), start=st.integers(0, 40))
def test_a_run_resumed_anywhere_sees_the_same(total: int, batch_size: int, start: int) -> None:
    loader = TrainLoader(ArraySource(TINY[:total]), TINY_CROP, batch_size=batch_size, seed=3)
    _assert_equal(_take(loader, start + 3)[start:], _take(loader, 3, start))


@given(total=st.integers(1, 40), batch_size=st.integers(1, 7), seed=st.integers(0, 5))
def test_an_epoch_is_every_image_once(total: int, batch_size: int, seed: int) -> None:
    loader = TrainLoader(ArraySource(TINY[:total]), TINY_CROP, batch_size=batch_size, seed=seed)
    seen = _joined(_take(loader, -(-2 * total // batch_size)))[1]
    every = {f"array[{index}]" for index in range(total)}
    assert set(seen[:total]) == set(seen[total : 2 * total]) == every


def test_epochs_seeds_and_positions_differ() -> None:
    source = ArraySource(TINY)
    first, second = (_joined(_take(TrainLoader(source, TINY_CROP, batch_size=40, seed=seed), 2)) for seed in (0, 1))
    assert first[1][:40] != first[1][40:]
    assert first[1] != second[1]
    # The same image is cut in another way each time.
    alone = _joined(_take(TrainLoader(ArraySource(TINY[:1]), TINY_CROP, batch_size=20), 1))[0]
    assert len(alone.reshape(20, -1).unique(dim=0)) > 10


def test_streams_of_random_numbers_do_not_collide() -> None:
    keys = itertools.product((0, 1, 2**32), (0, 1), (0, 1, 2, 2**32, 2**32 + 1))
    assert len({int(_rng(*key).integers(2**63)) for key in keys}) == 3 * 2 * 5


def test_epoch_counts_what_all_processes_saw() -> None:
    loader = TrainLoader(ArraySource(TINY), TINY_CROP, batch_size=5, world=4, rank=3)
    assert [loader.epoch(batch) for batch in (0, 1, 2, 3)] == [0, 0.5, 1, 1.5]


def test_nothing_is_drawn_from_the_global_generators() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    _take(TrainLoader(ArraySource(TINY), TINY_CROP, batch_size=5), 2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index]
    assert random.getstate() == states[2]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Nine images, of which a text file, a cut JPEG and a missing one cannot be used."""
    folder = write_folder(tmp_path / "mixed", 9)
    (folder / "02.png").write_text("not an image\n")
    (folder / "03.png").write_bytes(encode(photo(), "JPEG")[:600])
    (folder / "08.png").unlink()
    (folder / "08.png").symlink_to("gone.png")
    return folder


def test_the_next_image_stands_for_one_that_cannot_be_used(mixed: Path) -> None:
    loader = TrainLoader(open_source(mixed), Crop(32), batch_size=9)
    batches = _take(loader, 3)
    drawn = _rng(0, 0, 0).permutation(9)
    stands = {2: 4, 3: 4, 8: 0}
    assert list(batches[0].names) == [f"{mixed}/{stands.get(index, index):02d}.png" for index in drawn]
    # Each is told of once, and known from then on.
    assert [len(batch.skipped) for batch in batches] == [3, 0, 0]
    reasons = {Path(skipped.name).name: skipped.reason for skipped in batches[0].skipped}
    assert sorted(reasons) == ["02.png", "03.png", "08.png"]
    assert "is not an image that Pillow can read" in reasons["02.png"]
    assert "is it cut?" in reasons["03.png"]
    assert "there is no image" in reasons["08.png"]
    assert not any("\n" in reason for reason in reasons.values())


def test_a_stand_in_depends_on_nothing_that_was_seen_before(mixed: Path) -> None:
    loader = TrainLoader(open_source(mixed), Crop(32, zoom_max=2), batch_size=4)
    _assert_equal(_take(loader, 9)[6:], _take(loader, 3, 6))


def test_small_images_are_skipped_where_none_may_be_enlarged(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", 3)
    (folder / "01.png").write_bytes(encode(photo(0, 31, 90)))
    (batch,) = _take(TrainLoader(open_source(folder), Crop(32, upscale=False), batch_size=6), 1)
    assert {Path(name).name for name in batch.names} == {"00.png", "02.png"}
    assert [skipped.name for skipped in batch.skipped] == [str(folder / "01.png")]
    assert "90 x 31 pixels, too few for 32 x 32" in batch.skipped[0].reason


class Broken(ArraySource):
    """An array of which some images fail, after a time and in a way that a test chooses."""

    def __init__(self, error: Exception, good: int = 0, healthy_reads: int = 1) -> None:
        super().__init__(np.zeros((200, 8, 8, 3), np.uint8))
        self.error = error
        self.good = good
        self.healthy_reads = healthy_reads

    def __reduce__(self) -> Any:
        return Broken, (self.error, self.good, self.healthy_reads)

    def image(self, index: int) -> Image.Image:
        self.healthy_reads -= 1
        if index < self.good or self.healthy_reads >= 0:
            return super().image(index)
        raise self.error


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=WORKERS)])
def test_a_hundred_failures_in_a_row_end_the_run_in_one_line(workers: int) -> None:
    loader = TrainLoader(Broken(OSError("disk\ngone"), good=1), Crop(8, zoom=1), batch_size=4, workers=workers)
    with pytest.raises(DataError, match=r"^100 images in a row cannot be used; the first, array\[\d+\]: disk gone$"):
        _take(loader, 3)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=WORKERS)])
def test_a_broken_source_ends_the_run_with_its_own_words(workers: int) -> None:
    loader = TrainLoader(Broken(DataError("the shard has changed")), Crop(8), batch_size=4, workers=workers)
    with pytest.raises(DataError, match=r"^the shard has changed$"):
        _take(loader, 1)


def test_a_source_that_was_away_for_a_moment_goes_on() -> None:
    class Away(Broken):
        def image(self, index: int) -> Image.Image:
            return super().image(index) if self.healthy_reads > -100 else ArraySource.image(self, index)

    (batch,) = _take(TrainLoader(Away(OSError("away")), Crop(8), batch_size=2), 1)
    assert len(batch.skipped) == 100
    assert len(batch.names) == 2


@pytest.mark.parametrize("workers", [pytest.param(count, marks=WORKERS) for count in (1, 2)])
@pytest.mark.parametrize("kind", ["folder", "shards", "array"])
def test_workers_deliver_the_same_in_the_same_order(tmp_path: Path, mixed: Path, kind: str, workers: int) -> None:
    where = mixed
    if kind == "shards":
        where = write_tar(tmp_path / "a.tar", {path.name: path.read_bytes() for path in mixed.glob("0[0-7].png")})
    elif kind == "array":
        where = tmp_path / "a.npy"
        np.save(where, TINY)
    source = open_source(where)
    settings: dict[str, Any] = {"batch_size": 3, "seed": 5, "rank": 1, "world": 2}
    alone = TrainLoader(source, Crop(24, flip=True, zoom_max=2), **settings)
    helped = TrainLoader(source, Crop(24, flip=True, zoom_max=2), workers=workers, **settings)
    _assert_equal(_take(alone, 7), _take(helped, 7))
    _assert_equal(_take(alone, 7)[4:], _take(helped, 3, 4))


class TestProbing:
    def test_a_source_without_a_usable_image_is_rejected_at_once(self, tmp_path: Path) -> None:
        folder = tmp_path / "images"
        folder.mkdir()
        for number in range(20):
            (folder / f"{number:02d}.jpg").write_text("not an image")
        match = r"^none of 8 images tried, of 20, can be used; the first, .*00\.jpg: .* is not an image that Pillow"
        with pytest.raises(DataError, match=match):
            TrainLoader(open_source(folder), Crop(8), batch_size=1)

    def test_it_looks_all_over_the_source(self, tmp_path: Path) -> None:
        tried = []

        class Watched(ArraySource):
            def image(self, index: int) -> Image.Image:
                tried.append(index)
                raise ImageError("no")

        with pytest.raises(DataError, match="none of 8 images tried, of 40"):
            TrainLoader(Watched(TINY), Crop(8), batch_size=1)
        assert tried == [0, 5, 10, 15, 20, 25, 30, 35]
        tried.clear()
        with pytest.raises(DataError, match="none of 3 images tried, of 3"):
            TrainLoader(Watched(TINY[:3]), Crop(8), batch_size=1)
        assert tried == [0, 1, 2]

    def test_an_empty_source_is_rejected(self) -> None:
        class Empty(ArraySource):
            def __len__(self) -> int:
                return 0

        with pytest.raises(DataError, match="the source holds no images"):
            TrainLoader(Empty(TINY), Crop(8), batch_size=1)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more, found 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, found -1"),
        ({"seed": 2**64}, r"seed must be under 2\*\*64"),
        ({"world": 0}, "world must be"),
        ({"world": 2, "rank": 2}, r"rank must be under world \(2\), found 2"),
        ({"rank": -1}, "rank must be"),
        ({"workers": -1}, "workers must be"),
        ({"workers": True}, "workers must be a whole number, 0 or more, found True"),
    ],
)
def test_numbers_that_do_not_fit_are_rejected(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        TrainLoader(ArraySource(TINY), TINY_CROP, **{"batch_size": 1, **settings})


def test_a_start_that_does_not_fit_is_rejected_before_the_first_batch() -> None:
    with pytest.raises(InputError, match="start must be a whole number, 0 or more, found -1"):
        TrainLoader(ArraySource(TINY), TINY_CROP, batch_size=1).batches(-1)


def test_batches_in_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []

    def pin(images: torch.Tensor) -> torch.Tensor:  # PyTorch's own needs a GPU
        pinned.append(images)
        return images

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    source = ArraySource(TINY)
    plain = _take(TrainLoader(source, TINY_CROP, batch_size=4, seed=1), 2)
    assert not pinned
    _assert_equal(_take(TrainLoader(source, TINY_CROP, batch_size=4, seed=1, pinned=True), 2), plain)
    assert len(pinned) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=WORKERS)])
def test_batches_are_page_locked_on_a_gpu(workers: int) -> None:
    loader = TrainLoader(ArraySource(TINY), TINY_CROP, batch_size=4, workers=workers, pinned=True)
    assert all(batch.images.is_pinned() for batch in _take(loader, 2))
