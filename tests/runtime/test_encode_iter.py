"""`Tokenizer.encode_iter`: in order, lazily, in bounded memory, with an error in the place of its image."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

import coda_runtime
from coda_runtime import ClosedError, Encoded, ImageError, InputError, Tokenizer, streaming
from coda_runtime.streaming import Stream
from tests.runtime import tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs of several sizes and formats, and between them what is none."""
    folder = tmp_path_factory.mktemp("files")
    photo = Image.fromarray(tiny.photos(1, 200, 300)[0])
    for number in range(4):
        photo.rotate(40 * number).resize((30 + 17 * number, 50)).save(folder / f"{number}.png")
        photo.rotate(20 * number + 3).save(folder / f"{number}.jpg")
    whole = (folder / "0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("text")
    (folder / "empty.jpg").touch()
    (folder / "folder.png").mkdir()
    return [*sorted(folder.iterdir()), folder / "none.jpg"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    with coda_runtime.load(tiny.make_bundle(tmp_path_factory.mktemp("tiny") / "bundle"), device="cpu") as tok:
        yield tok


@pytest.fixture(scope="module")
def known(loaded: Tokenizer, files: list[Path]) -> dict[Path, np.ndarray[Any, Any] | str]:
    """What `encode` gives for each file by itself: ids, or what its error says."""
    found: dict[Path, np.ndarray[Any, Any] | str] = {}
    for path in files:
        try:
            found[path] = loaded.encode([path])[0]
        except ImageError as error:
            found[path] = str(error)
    assert sum(isinstance(of, str) for of in found.values()) == 5
    return found


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("coda-reader")]


def agree(results: Iterable[Encoded[Path]], paths: list[Path], known: dict[Path, Any]) -> None:
    results = list(results)
    assert [result.path for result in results] == paths
    for result in results:
        expected = known[result.path]
        if result.ids is None:
            assert str(result.error) == expected
        else:
            assert result.error is None
            assert result.ids.dtype == np.int32
            np.testing.assert_array_equal(result.ids, expected)


@settings(max_examples=60)
@given(data=st.data(), batch_size=st.none() | st.integers(1, 9), workers=st.none() | st.integers(1, 5))
def test_each_in_its_place(
    loaded: Tokenizer, files: list[Path], known: dict[Path, Any], data: st.DataObject, batch_size: Any, workers: Any
) -> None:
    paths = data.draw(st.lists(st.sampled_from(files), max_size=25))
    agree(loaded.encode_iter(iter(paths), batch_size=batch_size, workers=workers), paths, known)
    assert readers() == []


@settings(max_examples=20)
@given(batch_size=st.integers(1, 6), workers=st.integers(1, 4), taken=st.integers(0, 30), count=st.integers(0, 40))
def test_memory_is_bounded_and_the_end_is_clean(
    loaded: Tokenizer, batch_size: int, workers: int, taken: int, count: int
) -> None:
    """Counted are images that were asked for and have no result yet: they are read, wait, or run."""
    asked = open_now = most = most_open = 0
    lock = threading.Lock()
    real = streaming.fit

    def paths() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal asked
        for _ in range(count):
            asked += 1
            yield image

    def fit(*arguments: Any, **named: Any) -> Any:
        nonlocal open_now, most_open
        with lock:
            open_now += 1
            most_open = max(most_open, open_now)
        try:
            return real(*arguments, **named)
        finally:
            with lock:
                open_now -= 1

    image = tiny.photos(1, 40, 60)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "fit", fit)
        results = loaded.encode_iter(paths(), batch_size=batch_size, workers=workers)
        assert (asked, readers()) == (0, []), "lazy"
        done = 0
        for _ in range(taken):
            if next(results, None) is None:
                break
            most = max(most, asked - done)
            done += 1
        results.close()
    assert done == min(taken, count)
    assert most <= 2 * batch_size + workers
    assert most_open <= workers
    assert readers() == []


def test_the_engine_gets_batches(loaded: Tokenizer, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, images: sizes.append(len(images)) or real(self, images))
    good = [path for path in files if path.stem.isdigit()]
    list(loaded.encode_iter([*good, good[0], files[-1], good[1]], batch_size=4, workers=2))
    assert sizes == [4, 4, 2]  # the last has one that could not be read


def test_what_pillow_has_opened(loaded: Tokenizer, files: list[Path], known: dict[Path, Any]) -> None:
    """One object several times is read by one thread at a time."""
    good = next(path for path in files if path.name == "0.jpg")
    with Image.open(good) as opened:
        for result in loaded.encode_iter([opened] * 20, batch_size=3, workers=4):
            np.testing.assert_array_equal(result.ids, known[good])


def test_a_failure_of_the_paths_comes_after_those_before_it(
    loaded: Tokenizer, files: list[Path], known: dict[Path, Any]
) -> None:
    def listing() -> Iterator[Path]:
        yield from files
        raise OSError("the disk is gone")

    walked = loaded.encode_iter(listing(), batch_size=3)
    agree((next(walked) for _ in files), files, known)
    with pytest.raises(OSError, match="the disk is gone"):
        next(walked)
    assert readers() == []


def test_a_tokenizer_that_was_closed(files: list[Path], tmp_path: Path) -> None:
    with coda_runtime.load(tiny.make_bundle(tmp_path / "bundle"), device="cpu") as tok:
        begun = tok.encode_iter(files, batch_size=2)
        next(begun)
        tok.close()
        next(begun)  # it was in the batch
        with pytest.raises(ClosedError, match="is closed; load the bundle again"):
            next(begun)
        assert readers() == []
        assert next(begun, None) is None
        with pytest.raises(ClosedError, match="is closed; load the bundle again"):
            tok.encode_iter(files)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected a whole number from 1 to 65536"),
        ({"batch_size": True}, "batch_size is True"),
        ({"workers": 65}, "workers is 65; expected a whole number from 1 to 64"),
        ({"workers": 1.5}, r"workers is 1\.5"),
    ],
)
def test_numbers_out_of_range(loaded: Tokenizer, named: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        loaded.encode_iter([], **named)


def test_one_path_is_no_list(loaded: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"paths is one path, 'photo\.jpg'"):
        loaded.encode_iter("photo.jpg")


def test_what_is_no_image_is_an_error_in_its_place(loaded: Tokenizer) -> None:
    items: list[Any] = [7, np.zeros((4, 4), np.uint8), None]
    for number, result in enumerate(loaded.encode_iter(items, batch_size=1)):
        assert result.ids is None
        assert f"paths[{number}]" in str(result.error)


@pytest.mark.parametrize("early", [False, True])
def test_profiles_that_are_ignored_are_told_once(loaded: Tokenizer, tmp_path: Path, early: bool) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for number in range(4):
        Image.fromarray(tiny.photos(1)[0]).save(tmp_path / f"{number}.png", icc_profile=profile)
    results = loaded.encode_iter(sorted(tmp_path.iterdir()), batch_size=2, workers=1)
    for _ in range(2 if early else 4):
        next(results)
    with pytest.warns(RuntimeWarning, match=r"images? ha(ve|s) a colour profile other than sRGB") as told:
        results.close() if early else next(results, None)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_readers_are_as_many_as_are_asked_for(loaded: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    together, enough = threading.Barrier(3), time.monotonic() + 60
    real = Stream._read

    def read(self: Stream[Any], image: Any, name: str) -> Any:
        together.wait(enough - time.monotonic())  # fails unless three are here at a time
        return real(self, image, name)

    monkeypatch.setattr(Stream, "_read", read)
    assert len(list(loaded.encode_iter(list(tiny.photos(6)), batch_size=3, workers=3))) == 6
