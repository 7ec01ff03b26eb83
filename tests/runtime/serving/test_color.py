"""Colour profiles of the files in a request: counted and told of once, or converted by."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
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
    with coda_runtime.load(sealed, device="cpu", color=color) as tok, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of profiles
        expected = tok.encode(files)
    content = b"".join(struct.pack("<I", path.stat().st_size) + path.read_bytes() for path in files)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    server = Server(sealed, "--color", color)
    try:
        server.wait_for("ready")
        for _ in range(2):
            answer = server.post(
                "/v2/models/encode/infer", head + content, Inference_Header_Content_Length=str(len(head))
            )
            (output,) = json.loads(answer[1])["outputs"]
            np.testing.assert_array_equal(np.reshape(output["data"], output["shape"]), expected)
        assert server.metric("coda_profiles_ignored_total") == (4 if color == "stored" else 0)
        told = [line["message"] for line in server.lines if line["level"] == "warning"]
    finally:
        server.kill()
    assert len(told) == (1 if color == "stored" else 0)
    assert all(line.startswith("2 images have a colour profile other than sRGB") for line in told)
