"""Parts that share a GPU hand arrays on without the host between them; here the GPU is a stand-in that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from coda_runtime import DeviceError, DeviceMemoryError, ImageError, TokenError, Tokenizer, load
from coda_runtime.format.profiles import Batch
from coda_runtime.serving.replicas import Replicas
from tests.runtime import tiny
from tests.runtime.remote import Remote, RemoteBackend


@pytest.fixture(autouse=True)
def _nothing_fetched() -> None:
    Remote.fetched = 0


@pytest.fixture
def expected(tok: Tokenizer) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    ids = tok.encode(tiny.photos(11))
    return ids, tok.decode(ids)


Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def test_the_latent_stays_on_the_device(sealed: Path, expected: Pair) -> None:
    with load(sealed, backend=RemoteBackend((1, 8, 16))) as tok:
        np.testing.assert_array_equal(tok.encode(tiny.photos(11)), expected[0])
        assert Remote.fetched == 1, "the ids, and not the latent"


def test_parts_on_two_devices_meet_on_the_host(sealed: Path, expected: Pair) -> None:
    with load(sealed, backend=RemoteBackend((1, 8, 16), quantizer="cuda:1")) as tok:
        assert [a.device for a in tok.artifacts] == ["cuda:0", "cuda:1", "cuda:0"]
        np.testing.assert_array_equal(tok.encode(tiny.photos(11)), expected[0])
        assert Remote.fetched == 0, "each ran from the host to the host"


@pytest.mark.parametrize("batch", [(1, 2, 4), (3, 4, 4), (2, 2, 2), (11, 11, 11), (5, 7, 10)])
def test_batches_keep_to_the_profile(sealed: Path, expected: Pair, batch: tuple[int, int, int]) -> None:
    backend = RemoteBackend(batch)
    with load(sealed, backend=backend) as tok:
        assert tok.images_per_run == batch[2]
        np.testing.assert_array_equal(tok.encode(tiny.photos(11)), expected[0])
        np.testing.assert_array_equal(tok.decode(expected[0]), expected[1])
    sizes = backend.sessions["decoder"].sizes
    assert len(sizes) == -(-11 // batch[2])


TWO = ((1, 1, 1), (4, 6, 8))


@pytest.mark.parametrize(
    ("decoder", "sizes"),
    [
        (TWO, [8, 1, 1, 1]),
        (((1, 2, 3), (4, 6, 8)), [8, 1, 1, 1]),  # the encoder takes no batch of 3
        (((1, 4, 5),), [5, 5, 1]),
    ],
)
def test_batches_keep_to_the_profiles_of_all_parts(
    sealed: Path, expected: Pair, decoder: tuple[Batch, ...], sizes: list[int]
) -> None:
    backend = RemoteBackend()
    backend.profiles = {"encoder": TWO, "quantizer": TWO, "decoder": decoder}
    with load(sealed, backend=backend) as tok:
        assert tok.images_per_run == sizes[0]
        assert [artifact.profiles for artifact in tok.artifacts] == [TWO, TWO, decoder]
        np.testing.assert_array_equal(tok.encode(tiny.photos(11)), expected[0])
        np.testing.assert_array_equal(tok.decode(expected[0]), expected[1])
    for session in backend.sessions.values():
        assert session.sizes == sizes


def test_without_memory_the_smaller_profile_runs(sealed: Path, expected: Pair) -> None:
    backend = RemoteBackend(memory=3)
    backend.profiles = dict.fromkeys(("encoder", "quantizer", "decoder"), TWO)
    with load(sealed, backend=backend) as tok:
        np.testing.assert_array_equal(tok.encode(tiny.photos(11)), expected[0])
        assert tok.images_per_run == 1


def test_an_array_on_the_gpu_between_the_profiles(sealed: Path, expected: Pair) -> None:
    backend = RemoteBackend()
    backend.profiles = dict.fromkeys(("encoder", "quantizer", "decoder"), TWO)
    with load(sealed, backend=backend) as tok:
        for count in (1, 5):
            found = tok.encode(Remote(tiny.photos(11)[:count]))
            np.testing.assert_array_equal(found.numpy(), expected[0][:count])
        with pytest.raises(ImageError, match=r"with B of 1 or from 4 to 8: resize and split them"):
            tok.encode(Remote(tiny.photos(2)))
        with pytest.raises(TokenError, match=r"with B of 1 or from 4 to 8: split them"):
            tok.decode(Remote(expected[0][:3].astype(np.int32)))


def test_a_batch_smaller_than_the_profile(sealed: Path, expected: Pair) -> None:
    """The last image runs again in place of those that the engines want, and its rows are dropped."""
    backend, photos = RemoteBackend((4, 4, 8)), tiny.photos(11)
    with load(sealed, backend=backend) as tok:
        np.testing.assert_array_equal(tok.encode(photos[:3]), expected[0][:3])
        np.testing.assert_array_equal(tok.decode(expected[0][:1]), expected[1][:1])
        np.testing.assert_array_equal(tok.reconstruct(list(photos[:1])), expected[1][:1])
        np.testing.assert_array_equal([one.ids for one in tok.encode_iter(photos, batch_size=5)], expected[0])
        assert tok.images_per_run == 8
        with pytest.raises(ImageError, match="with B from 4 to 8"):
            tok.encode(Remote(photos[:3]))
    assert backend.sessions["encoder"].sizes == [4, 4, 5, 5, 4]
    assert backend.sessions["decoder"].sizes == [4, 4]


def test_a_server_warms_engines_up_that_take_no_single_image(sealed: Path) -> None:
    backend = RemoteBackend((4, 4, 8))
    replicas = Replicas(lambda _: load(sealed, backend=backend), ["cuda:0"])
    replicas.warm_up(8)
    assert set(backend.sessions["decoder"].sizes) == {4, 8}
    replicas.close()


def test_out_of_memory_halves_the_batch_for_good(sealed: Path, expected: Pair) -> None:
    backend = RemoteBackend((1, 8, 16), memory=3)
    with load(sealed, backend=backend) as tok:
        np.testing.assert_array_equal(tok.encode(tiny.photos(11)), expected[0])
        assert tok.images_per_run == 2
        before = len(backend.sessions["decoder"].sizes)
        np.testing.assert_array_equal(tok.decode(expected[0]), expected[1])
        assert backend.sessions["decoder"].sizes[before:] == [2, 2, 2, 2, 2, 1]


def test_no_memory_at_all(sealed: Path) -> None:
    match = "even a batch of 1 does not fit: free memory on the device"
    with load(sealed, backend=RemoteBackend(memory=0)) as tok, pytest.raises(DeviceMemoryError, match=match):
        tok.encode(tiny.photos(4))


def test_device_in_device_out(sealed: Path, expected: Pair) -> None:
    with load(sealed, backend=RemoteBackend((1, 8, 16))) as tok:
        ids = tok.encode(Remote(tiny.photos(11)))
        assert isinstance(ids, Remote)
        assert Remote.fetched == 0
        np.testing.assert_array_equal(ids.content, expected[0])
        images = tok.decode(ids)
        assert isinstance(images, Remote)
        assert Remote.fetched == 1, "the ids alone, to be checked"
        np.testing.assert_array_equal(images.content, expected[1])
        both = tok.reconstruct(Remote(tiny.photos(11)))
        assert isinstance(both, Remote)
        np.testing.assert_array_equal(both.content, expected[1])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 40, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((5, 32, 32, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
)
def test_images_on_a_device_must_fit(sealed: Path, images: npt.NDArray[Any]) -> None:
    match = r"expected uint8 \[B,32,32,3\] with B from 1 to 4: resize and split"
    with load(sealed, backend=RemoteBackend()) as tok, pytest.raises(ImageError, match=match):
        tok.encode(Remote(images))


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (np.zeros((1, 21), np.int64), r"int64 \[1, 21\]; expected int32 \[B,21\]"),
        (np.zeros((1, 5), np.int32), r"int32 \[1, 5\]; expected"),
        (np.zeros((5, 21), np.int32), "with B from 1 to 4: split them"),
        (np.full((1, 21), 16, np.int32), "expected 0 to 15"),
        (np.full((1, 21), -1, np.int32), "expected 0 to 15"),
    ],
)
def test_ids_on_a_device_are_checked(sealed: Path, ids: npt.NDArray[Any], match: str) -> None:
    with load(sealed, backend=RemoteBackend()) as tok, pytest.raises(TokenError, match=match):
        tok.decode(Remote(ids))


def test_an_array_on_another_gpu(sealed: Path) -> None:
    with load(sealed, backend=RemoteBackend()) as tok, pytest.raises(DeviceError, match="it lies on cuda:1"):
        tok.encode(Remote(tiny.photos(1), "cuda:1"))
