"""The two steps of the pipeline, in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import coda_runtime
from coda_runtime import ChecksumError, HubError, MissingDependencyError
from coda_runtime.backends.base import LoadOptions
from coda_runtime.bulk import failures
from coda_runtime.bulk.encoder import Encoder
from coda_runtime.bulk.plan import tokenizer_files
from coda_runtime.bulk.preprocess import pack_rows, read_pixels
from coda_runtime.bulk.sources import SourceOptions, open_source
from coda_runtime.format.bundle import Bundle
from tests.runtime import tiny
from tests.runtime.bulk.conftest import expected, save_images


@pytest.fixture
def images(tmp_path: Path) -> pa.Table:
    """What was read of five files, the third of which is no image."""
    save_images(tmp_path / "photos", 5, groups=1)
    (tmp_path / "photos" / "g0" / "002.png").write_bytes(b"no picture")
    source = open_source(str(tmp_path / "photos"), SourceOptions())
    packed = pa.Table.from_pylist([pack_rows(40, source.listing())])
    return read_pixels(packed, reader=source.reader(source.files()), size=tiny.SIZE, original_size=True)


def test_steps(sealed: Path, tmp_path: Path, images: pa.Table) -> None:
    encode = Encoder(str(sealed), LoadOptions(precision="fp32"), tokenizer_files(Bundle.open(sealed), "fp32"))
    # As a block that is a slice of another, and one that was put together from several.
    joined = pa.concat_tables([images.slice(0, 2), images.slice(2)])
    for table in (encode(images), encode(pa.concat_tables([images, images]).slice(5)), encode(joined)):
        assert table.column("position").to_pylist() == [40, 41, 42, 43, 44]
        assert table.column("width").to_pylist() == [60, 60, None, 60, 60]
        assert table.column("height").to_pylist() == [40, 40, None, 40, 40]
        ids = table.column("ids").to_pylist()
        assert [ids[i] for i in (0, 1, 3, 4)] == list(expected(sealed, tmp_path / "photos").values())
        assert ids[2] == []
        assert "'g0/002.png' is not an image" in table.column("error")[2].as_py()


def test_another_bundle_on_a_node(sealed: Path, images: pa.Table) -> None:
    known = tokenizer_files(Bundle.open(sealed), "fp32")
    table = Encoder(str(sealed), LoadOptions(precision="fp32"), {**known, "encoder.fp32.onnx": "0" * 64})(images)
    error = failures.unpack(table.column("failure")[0].as_py())
    assert isinstance(error, ChecksumError)
    assert "holds another tokenizer on this node" in str(error)


@pytest.mark.parametrize(
    "error",
    [HubError("offline: no hub"), MissingDependencyError("this needs that", "images"), coda_runtime.CodaError()],
)
def test_failures_keep_class_and_message(error: coda_runtime.CodaError) -> None:
    again = failures.unpack(failures.pack(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_bytes_of_pixels_are_not_copied(images: pa.Table) -> None:
    from coda_runtime.bulk.encoder import _bytes_of

    whole = images.column("pixels").combine_chunks()
    column = pa.chunked_array([whole.drop_null() if isinstance(whole, pa.Array) else whole.chunk(0).drop_null()])
    pixels = _bytes_of(column)
    assert pixels.shape == (4 * tiny.SIZE * tiny.SIZE * 3,)
    assert np.shares_memory(pixels, np.frombuffer(column.chunk(0).buffers()[2], np.uint8))
