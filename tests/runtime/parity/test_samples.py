"""The yardstick's file, and the reference that is made of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime.errors import ArtifactError, InputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.parity import ParitySamples, SavedReference
from tests.runtime import measurable, tiny


@pytest.fixture(scope="module")
def samples() -> ParitySamples:
    return ParitySamples.take(measurable.NumpyReference(), tiny.photos(5))


def _arrays(samples: ParitySamples) -> dict[str, Any]:
    return {field.name: getattr(samples, field.name) for field in dataclasses.fields(samples)}


def test_what_is_taken_is_the_reference_s(samples: ParitySamples) -> None:
    reference, images = measurable.NumpyReference(), tiny.photos(5)
    np.testing.assert_array_equal(samples.images, images)
    np.testing.assert_array_equal(samples.latent, reference.latent(images))
    np.testing.assert_array_equal(samples.ids, reference.encode(reference.latent(images)))
    np.testing.assert_array_equal(samples.decoded, reference.decode(samples.ids))


def test_there_and_back(samples: ParitySamples, tmp_path: Path) -> None:
    samples.save(tmp_path / "a.npz")
    samples.save(tmp_path / "b")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b").read_bytes()
    for name, array in _arrays(ParitySamples.load(tmp_path / "b", tiny.SPEC)).items():
        np.testing.assert_array_equal(array, getattr(samples, name))
        assert array.dtype == getattr(samples, name).dtype


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ids": None}, "holds decoded, images, latent; expected images, latent, ids, decoded"),
        ({"more": np.zeros(1)}, "holds decoded, ids, images, latent, more"),
        ({"images": np.zeros((5, 32, 31, 3), np.uint8)}, r"has images uint8 \[5, 32, 31, 3\]; expected uint8 \[N, 32"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8)}, r"has images uint8 \[0, 32"),
        ({"images": np.uint8(0)}, r"has images uint8 \[\]"),
        ({"decoded": np.zeros((4, 32, 32, 3), np.uint8)}, r"has decoded uint8 \[4, 32"),
        ({"latent": np.zeros((5, 4, 4, 4))}, "has latent float64"),
        ({"latent": np.full((5, 4, 4, 4), np.inf, np.float32)}, "has NaN or infinity in latent"),
        ({"ids": np.full((5, 21), 16, np.int32)}, "has ids from 16 to 16; expected 0 to 15"),
        ({"ids": np.full((5, 21), -1, np.int32)}, "has ids from -1"),
        ({"ids": np.array([[{}] * 21] * 5, object)}, r"is not a readable \.npz file"),
    ],
)
def test_wrong_contents(samples: ParitySamples, tmp_path: Path, change: dict[str, Any], match: str) -> None:
    arrays = {key: value for key, value in {**_arrays(samples), **change}.items() if value is not None}
    np.savez(tmp_path / "parity.npz", **arrays)
    with pytest.raises(ArtifactError, match=match):
        ParitySamples.load(tmp_path / "parity.npz", tiny.SPEC)


def test_other_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    for name in ("one.npy", "text.npz", "none.npz"):
        with pytest.raises(ArtifactError, match=r"is not a readable \.npz file"):
            ParitySamples.load(tmp_path / name, tiny.SPEC)


def test_damaged_files_never_come_out_as_something_else(samples: ParitySamples, tmp_path: Path) -> None:
    path = tmp_path / "parity.npz"
    samples.save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        for data in (whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :], whole[:at]):
            path.write_bytes(data)
            try:
                read = ParitySamples.load(path, tiny.SPEC)
            except ArtifactError:
                continue
            for name, array in _arrays(read).items():
                np.testing.assert_array_equal(array, getattr(samples, name))


def test_the_saved_reference_says_what_was_saved(bundle: Bundle, samples: ParitySamples) -> None:
    saved, order = SavedReference.open(bundle), [3, 0, 3]
    np.testing.assert_array_equal(saved.latent(samples.images[order]), samples.latent[order])
    np.testing.assert_array_equal(saved.encode(samples.latent[order]), samples.ids[order])
    np.testing.assert_array_equal(saved.decode(samples.ids[order]), samples.decoded[order])


def test_the_saved_reference_knows_no_other_images(bundle: Bundle, samples: ParitySamples) -> None:
    saved = SavedReference.open(bundle)
    with pytest.raises(InputError, match="1 of 2 images are not among the 5 saved samples"):
        saved.latent(np.stack([samples.images[0], 255 - samples.images[1]]))
    with pytest.raises(InputError, match="2 of 2 ids are not among"):
        saved.decode(samples.ids[:2] ^ 1)


def test_steps_are_searched_for_any_ids(bundle: Bundle, samples: ParitySamples) -> None:
    ids = (samples.ids + 1) % tiny.CODES
    found = SavedReference.open(bundle).step(samples.latent, ids)
    np.testing.assert_array_equal(found, measurable.NumpyReference().step(samples.latent, ids))
    assert (found[:, 0] == samples.ids[:, 0]).all(), "nothing comes before the first scale"
    assert (found != samples.ids).any()


@pytest.mark.parametrize("part", ["parity", "search"])
def test_a_bundle_without_a_reference(folder: Path, copy: Callable[[Path], Path], part: str) -> None:
    changed = copy(folder)
    (changed / "SHA256SUMS").unlink()

    def drop(data: dict[str, Any]) -> None:
        data["artifacts"] = [entry for entry in data["artifacts"] if entry["part"] != part]
        del data["checksums"]

    tiny.edit_manifest(changed, drop)
    assert part not in json.loads((changed / "manifest.json").read_text())
    with pytest.raises(ArtifactError, match=rf"has no part '{part}' in format 'npz'.*coda verify BUNDLE --tokenizer"):
        SavedReference.open(Bundle.open(changed))
