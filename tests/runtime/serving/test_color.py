"""Colour profiles of the files in a request: counted and told of once, or converted by."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from PIL import Image

import coda_runtime
from tests.runtime import tiny
from tests.runtime.images import icc
from tests.runtime.serving.process import Server


@pytest.mark.parametrize("color", ["stored", "srgb"])
def test_files_with_a_profile(sealed: Path, tmp_path: Path, color: str) -> None:
    for number, image in enumerate(tiny.photos(3, 40, 60)):
        Image.fromarray(image).save(tmp_path / f"{number}.png", icc_profile=icc.rgb() if number else None)
    files = sorted(tmp_path.glob("*.png"))
    sent = tritonclient.http.InferInput("image", [3], "BYTES")
    sent.set_data_from_numpy(np.array([path.read_bytes() for path in files], np.object_))
    server = Server(sealed, "--device", "cpu", "--threads", 1, "--color", color)
    try:
        server.wait_for("ready")
        client = tritonclient.http.InferenceServerClient(server.http)
        answers = [client.infer("encode", [sent]).as_numpy("ids") for _ in range(2)]
        client.close()
        assert server.metric("coda_profiles_ignored_total") == (4 if color == "stored" else 0)
        told = [line for line in server.lines if "colour profile" in line["message"]]
        assert len(told) == (1 if color == "stored" else 0)
        assert all(line["message"].startswith("2 images have a colour profile other than sRGB") for line in told)
    finally:
        server.kill()
    with coda_runtime.load(sealed, threads=1, color=color) as tok, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that profiles are ignored
        expected = tok.encode(files)
    for ids in answers:
        np.testing.assert_array_equal(ids, expected)
