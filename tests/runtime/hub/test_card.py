from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coda_runtime.format.bundle import Bundle
from coda_runtime.hub.card import MARK, card_text, write_picture
from coda_runtime.hub_source.names import HubName
from coda_runtime.parity import ParitySamples
from tests.runtime import measurable, tiny

yaml = pytest.importorskip("yaml")

NAME = HubName("org/name", "v1")


def _front(text: str) -> Any:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_it_says_what_the_manifest_says(sealed: Path) -> None:
    text = card_text(Bundle.open(sealed).manifest, NAME, has_picture=False)
    front = _front(text)
    assert (front["license"], front["library_name"]) == ("cc0-1.0", "coda-deploy")
    assert front["tags"] == ["image-tokenizer", "vector-quantization", "coda", "onnx"]
    assert MARK in text
    for words in ('load("org/name@v1")', "| tokens | 21, in scales 1 2 4 |", "| encoder | onnx | fp32 | 0.0 |"):
        assert words in text
    assert r"| encoder.fp32.onnx | onnxruntime | 100 % |  | identical |" in text
    assert "free-running: equal tokens in the end" in text, "what tells the two agreements apart"
    assert "| exporter | test |" in text
    assert "card/" not in text


def test_a_manifest_s_words_are_no_markup(measured: Path) -> None:
    manifest = Bundle.open(measured).manifest
    spec = dataclasses.replace(manifest.spec, variant="x | ![](http://evil/a.png)\n# Trust me <script>")
    licensed = dataclasses.replace(manifest, spec=spec, license='my: "own"\n- tag')
    text = card_text(licensed, NAME, has_picture=True)
    assert (_front(text)["license"], _front(text)["license_name"]) == ("other", "my-own-tag")
    assert "](card/reconstructions.png)" in text
    assert re.findall(r"(?<!\\)[<>]", text.replace(MARK, "")) == ["<", ">"][:0]
    assert "\n# Trust me" not in text
    assert r"x \| \!\[\](http://evil/a.png) \# Trust me \<script\>" in text
    assert r"test \| \<b\>bold\</b\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for line in rows:
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 6, 7), line


def test_without_a_license_none_is_named(measured: Path) -> None:
    text = card_text(Bundle.open(measured).manifest, NAME, has_picture=True)
    assert "license" not in _front(text)
    assert "| license of the weights | not stated |" in text


def test_the_picture_shows_photographs_above_reconstructions(measured: Path, sealed: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(measured)
    assert write_picture(bundle, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        pixels = np.asarray(image)
    samples, side = ParitySamples.load(measured / "parity.fp32.npz", bundle.spec), tiny.SIZE
    assert pixels.shape == (2 * side + 4, measurable.SAMPLES * (side + 4) - 4, 3)
    for number in range(measurable.SAMPLES):
        across = slice(number * (side + 4), number * (side + 4) + side)
        np.testing.assert_array_equal(pixels[:side, across], samples.images[number])
        np.testing.assert_array_equal(pixels[side + 4 :, across], samples.decoded[number])
    assert not write_picture(Bundle.open(sealed), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
