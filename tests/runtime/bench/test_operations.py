from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import coda_runtime
from coda_runtime.bench.breakdown import time_reading
from coda_runtime.bench.image_set import MAX_IMAGES, take_images
from coda_runtime.bench.operations import FROM_FILES, ON_DEVICE, OPERATIONS, Inputs
from coda_runtime.errors import ChecksumError, InputError
from coda_runtime.format.bundle import Bundle
from tests.runtime import tiny
from tests.runtime.remote import Remote, RemoteBackend

PHOTOS = tiny.photos(5)


@pytest.fixture
def tok(bundle: Path) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(bundle) as loaded:
        yield loaded


def write(folder: Path) -> list[str]:
    for index, photo in enumerate(PHOTOS):
        Image.fromarray(photo).save(folder / f"{index}.png")
    return [str(folder / f"{index}.png") for index in range(len(PHOTOS))]


def test_reading_is_told_apart(tok: coda_runtime.Tokenizer, tmp_path: Path) -> None:
    inputs = Inputs(tok, FROM_FILES, PHOTOS, write(tmp_path))
    reading = inputs.read(3)
    assert reading is not None
    np.testing.assert_array_equal(reading(1), PHOTOS[[3, 4, 0]])
    ticks = iter(range(10**9))
    assert time_reading(reading, clock=lambda: float(next(ticks))) == 1.0
    assert Inputs(tok, "encode", PHOTOS).read(3) is None
    with pytest.raises(InputError, match="--images DIR"):
        Inputs(tok, FROM_FILES, PHOTOS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_does_what_the_tokenizer_does(
    operation: str, tok: coda_runtime.Tokenizer, tmp_path: Path
) -> None:
    ids = tok.encode(PHOTOS)
    images = tok.decode(ids)
    inputs = Inputs(tok, operation, PHOTOS, write(tmp_path))
    assert len(inputs) == 5
    expected = {"decode": images, "decode-device": images, "round-trip": images}.get(operation, ids)
    np.testing.assert_array_equal(inputs.call(inputs.rows(0, 5)), expected)
    np.testing.assert_array_equal(inputs.batches(3)(1), expected[[3, 4, 0]])
    np.testing.assert_array_equal(inputs.requests()(4, 7), expected[[4, 0, 1]])


def test_a_pass_runs_whole_batches_through_the_engines(tok: coda_runtime.Tokenizer) -> None:
    run, count = Inputs(tok, "encode", PHOTOS).passes(2)
    assert count == 6
    assert tok.images_per_run == 2
    np.testing.assert_array_equal(run(0), tok.encode(PHOTOS)[[0, 1, 2, 3, 4, 0]])


def test_batches_in_a_row_are_different_images(tok: coda_runtime.Tokenizer) -> None:
    run = Inputs(tok, "encode", PHOTOS).batches(1)
    outs = [np.asarray(run(number)).tobytes() for number in range(5)]
    assert len(set(outs)) == 4
    assert outs[0] == outs[4]


def test_arrays_on_the_device_speak_dlpack_alone(tok: coda_runtime.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the device's memory is the host's, and what is taken is what another library would give."""
    for operation, call in ON_DEVICE.items():
        given: list[object] = []
        real = getattr(tok, call)
        run, count = Inputs(tok, operation, PHOTOS).passes(2)
        with monkeypatch.context() as patch:
            patch.setattr(tok, call, lambda batch, real=real, given=given: [given.append(batch), real(batch)][1])
            out: Any = run(0)
        expected = Inputs(tok, call, PHOTOS)
        np.testing.assert_array_equal(np.concatenate(out), expected.call(expected.rows(0, count)))
        assert len(given) == 3
        assert not any(isinstance(batch, np.ndarray) for batch in given)
        assert {batch.__dlpack_device__() for batch in given} == {(1, 0)}  # type: ignore[attr-defined]


def test_arrays_on_a_gpu_stay_there_and_are_waited_for(sealed: Path) -> None:
    with coda_runtime.load(sealed, backend=RemoteBackend((1, 8, 16))) as tok:
        ids = tok.encode(PHOTOS)
        encode, decode = (Inputs(tok, operation, PHOTOS).batches(2) for operation in ON_DEVICE)
        Remote.fetched = Remote.waited = 0
        out: Any = encode(1)
        assert (Remote.fetched, Remote.waited) == (0, 1)
        np.testing.assert_array_equal(out.content, ids[2:4])
        out = decode(1)
        assert (Remote.fetched, Remote.waited) == (1, 2), "the ids alone, to be checked"
        np.testing.assert_array_equal(out.content, tok.decode(ids[2:4]))
    with coda_runtime.load(sealed, backend=RemoteBackend(quantizer="cuda:1")) as tok:
        match = r"\(encoder on cuda:0, quantizer on cuda:1\); name a backend .* or measure encode, which copies"
        with pytest.raises(InputError, match=match):
            Inputs(tok, "encode-device", PHOTOS)
        Inputs(tok, "decode-device", PHOTOS)


def test_images_are_the_bundles_samples_or_the_users(bundle: Path, tmp_path: Path, sealed: Path) -> None:
    opened = Bundle.open(bundle)
    samples = take_images(opened)
    np.testing.assert_array_equal(samples.images, PHOTOS)
    assert samples.facts()["source"] == "samples of the bundle"
    from PIL import Image

    for i, image in enumerate(tiny.photos(2, 40, 60)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.glob("*.png"))
    taken = take_images(opened, paths * MAX_IMAGES, "there")
    assert taken.images.shape == (MAX_IMAGES, 32, 32, 3)
    assert {"count": MAX_IMAGES, "source": "there"}.items() <= taken.facts().items()
    assert taken.facts()["sha256"] != samples.facts()["sha256"]
    with pytest.raises(InputError, match=r"carries no sample images.*--images DIR"):
        take_images(Bundle.open(sealed))


def test_damaged_samples_are_reported_as_such(bundle: Path, copy: object) -> None:
    damaged = copy(bundle)  # type: ignore[operator]
    (damaged / "parity.fp32.npz").write_bytes(b"no archive")
    with pytest.raises(ChecksumError, match="has 10 bytes, but the manifest says"):
        take_images(Bundle.open(damaged))
