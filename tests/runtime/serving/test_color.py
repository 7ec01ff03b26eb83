"""Colour profiles of the files in a request: counted and told of once, or converted by."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from coda_runtime.format.bundle import Bundle
from coda_runtime.images import fit
from coda_runtime.serving.admission import Record, current_record
from coda_runtime.serving.metrics import Metrics
from coda_runtime.serving.models import Encode
from coda_runtime.serving.options import ServeOptions
from coda_runtime.serving.tensors import Tensor
from tests.runtime import tiny
from tests.runtime.images import icc


@pytest.mark.parametrize("color", ["stored", "srgb"])
def test_files_with_a_profile(sealed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, color: str) -> None:
    for number, image in enumerate(tiny.photos(3, 40, 60)):
        Image.fromarray(image).save(tmp_path / f"{number}.png", icc_profile=icc.rgb() if number else None)
    files = sorted(tmp_path.glob("*.png"))
    spec = Bundle.open(sealed).spec
    registry = CollectorRegistry()
    caplog.set_level(logging.WARNING, "coda.serve")
    with ThreadPoolExecutor(1) as pool:
        ignored = Metrics(registry).ignored_profiles
        model = Encode("encode", spec, ServeOptions(color=color), pool, ignored)
        batcher: Any = SimpleNamespace(room=lambda images: nullcontext())
        model.batcher = batcher
        tensor = Tensor("image", "BYTES", [3], [path.read_bytes() for path in files])
        current_record.set(Record("http", "encode"))
        for _ in range(2):
            rows = asyncio.run(model.rows(tensor))
    np.testing.assert_array_equal(rows, [fit(path, spec.image_size, color=color) for path in files])
    assert registry.get_sample_value("coda_profiles_ignored_total") == (4 if color == "stored" else 0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (1 if color == "stored" else 0)
    assert all(line.startswith("2 images have a colour profile other than sRGB") for line in told)
