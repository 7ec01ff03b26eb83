"""What happens when in one call, of the tiny bundle on real files, by a clock that ticks when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coda_runtime
from coda_runtime.bench.breakdown import DEVICE_TO_HOST, HOST_TO_DEVICE
from coda_runtime.bench.one_call import MAX_SPANS, median_timeline, trace
from coda_runtime.bench.operations import FROM_FILES, OPERATIONS, Inputs
from coda_runtime.bench.results import Span, Timeline
from coda_runtime.images import fit, open_rgb, resize
from tests.runtime import tiny
from tests.runtime.remote import RemoteBackend

PHOTOS = tiny.photos(3, 90, 60)


@pytest.fixture
def tok(bundle: Path) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(bundle) as loaded:
        yield loaded


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for index, photo in enumerate(PHOTOS):
        Image.fromarray(photo).save(tmp_path / f"{index}.png")
    return [str(tmp_path / f"{index}.png") for index in range(len(PHOTOS))]


def ticking() -> Callable[[], float]:
    ticks = iter(range(10**9))
    return lambda: float(next(ticks))


def inputs(tok: coda_runtime.Tokenizer, operation: str, files: list[str]) -> Inputs:
    return Inputs(tok, operation, tiny.photos(3), files)


def test_a_file_is_read_decoded_and_resized_before_the_parts_run(tok: coda_runtime.Tokenizer, files: list[str]) -> None:
    calls: list[int] = []
    found = trace(tok, inputs(tok, FROM_FILES, files), 1, after=calls.append, clock=ticking())
    assert calls == [1, 2, 3], "no more, since each takes longer than there is time for"
    assert found is not None
    assert [span["name"] for span in found["spans"]] == ["read file", "decode file", "resize", "encoder", "quantizer"]
    # The clock ticks at the start of the call, at both ends of each span, and at the end.
    assert [span["start_s"] for span in found["spans"]] == [1, 3, 5, 7, 9]
    assert [span["seconds"] for span in found["spans"]] == [1] * 5
    assert found["seconds"] == 11


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != FROM_FILES])
def test_each_operation_runs_its_parts_in_turn(operation: str, tok: coda_runtime.Tokenizer, files: list[str]) -> None:
    found = trace(tok, inputs(tok, operation, files), 2)
    assert found is not None
    assert [span["name"] for span in found["spans"]] == list(OPERATIONS[operation])
    for span, following in pairwise(found["spans"]):
        assert span["start_s"] + span["seconds"] <= following["start_s"]
    last = found["spans"][-1]
    assert 0 < last["start_s"] + last["seconds"] <= found["seconds"]


def test_several_files_are_one_span_and_pieces_of_a_batch_are_several(
    tok: coda_runtime.Tokenizer, files: list[str]
) -> None:
    found = trace(tok, inputs(tok, FROM_FILES, files), 3, clock=ticking())
    assert found is not None
    assert [span["name"] for span in found["spans"]] == ["files", "encoder", "quantizer"]
    tok.images_per_run = 2
    found = trace(tok, inputs(tok, "encode", files), 3)
    assert found is not None
    assert [span["name"] for span in found["spans"]] == ["encoder", "quantizer"] * 2
    tok.images_per_run = 1
    assert trace(tok, inputs(tok, "encode", files), MAX_SPANS) is None, "nobody could read twice as many"


def test_what_is_watched_gives_what_the_tokenizer_gives(
    tok: coda_runtime.Tokenizer, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    encode = tok.encode
    monkeypatch.setattr(tok, "encode", lambda images: seen.append(encode(images)) or seen[-1])
    trace(tok, inputs(tok, FROM_FILES, files), 1)
    np.testing.assert_array_equal(np.concatenate(seen[:3]), encode(files))
    for file in files:
        np.testing.assert_array_equal(resize(open_rgb(file, name=file), 32), fit(file, 32))


def test_copies_to_and_from_a_gpu_are_spans_of_their_own(bundle: Path, files: list[str]) -> None:
    with coda_runtime.load(bundle, backend=RemoteBackend()) as tok:
        found = trace(tok, inputs(tok, "encode", files), 1)
        assert found is not None
        names = [span["name"] for span in found["spans"]]
        assert names == [HOST_TO_DEVICE, "encoder", "quantizer", DEVICE_TO_HOST]
        there = trace(tok, inputs(tok, "encode-device", files), 1)
        assert there is not None
        assert [span["name"] for span in there["spans"]] == ["encoder", "quantizer"]


def test_the_call_of_median_length_is_kept() -> None:
    span: Span = {"name": "encoder", "start_s": 0.0, "seconds": 1.0}
    calls: list[Timeline | None] = [{"seconds": float(n), "spans": [span] * n} for n in (5, 1, 9, 2)]
    assert median_timeline([*calls, None]) == calls[3], "the lower of the two in the middle"
    assert median_timeline([None, None]) is None
    assert median_timeline([]) is None
