"""An image that takes too long to decode ends in an error of its request, and its place is free again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.runtime.serving.process import Server


def png(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def test_its_slot_is_free_again(sealed: Path) -> None:
    server = Server(sealed, "--device", "cpu", "--threads", 1, "--max-requests", 1, "--max-decode-seconds", 0.01)
    try:
        server.wait_for("ready")
        client = tritonclient.http.InferenceServerClient(server.http)

        def encode(image: bytes) -> object:
            sent = tritonclient.http.InferInput("image", [1], "BYTES")
            sent.set_data_from_numpy(np.array([image], np.object_))
            return client.infer("encode", [sent]).as_numpy("ids")

        with pytest.raises(InferenceServerException, match=r"image\[0\]' takes more than 0.01 s"):
            encode(png(7000))
        assert encode(png(8)) is not None
        server.wait_for_metric("coda_requests_active", 0)
        client.close()
    finally:
        server.kill()
