"""The report of findings that no real run gives: other shapes, hostile names, parts that were not run."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from coda_deploy.demo.report import render
from coda_deploy.demo.results import DemoResults, Int8
from coda_runtime.format.spec import Spec
from tests.deploy.demo.small import MEASURED, manifest, results


def text(page: str) -> str:
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(page)
    return "\n".join(found)


def test_names_are_escaped() -> None:
    page = render(results(parity=MEASURED, name='<script>"'), out=Path("a&b"), coda="<coda>")
    assert "<script" not in page.lower()
    assert "<coda>" not in page
    assert "<one> & only" in text(page)


def test_identical_images_are_called_so_and_are_null_in_json() -> None:
    found = results(parity=MEASURED, same=True)
    assert "identical" in text(render(found, out=Path("demo")))
    figures = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert figures["psnr"] is None
    assert figures["num_tokens"] == 5
    assert figures["bits_per_pixel"] == 25 / 256
    assert figures["psnr_per_prefix"][0]["tokens"] == 1


def test_a_part_that_could_not_run_is_reported_with_its_reason() -> None:
    reason = {"step_agreement": None, "reason": "no such <device>"}
    page = text(render(results(parity={"encoder": reason, "decoder": {"psnr": None, "reason": "none"}}), out=Path("d")))
    assert "encoder.fp32.onnx on onnxruntime:cpu: no such <device>" in page
    assert "not run" in page


def test_nearly_all_is_not_all() -> None:
    page = text(render(results(parity=MEASURED), out=Path("demo")))
    assert "99.999 %" in page


def test_int8_is_shown_with_the_manifest_s_loss_and_the_run_s_speed() -> None:
    found = results(parity=MEASURED)
    page = text(render(found, out=Path("demo")))
    assert 'coda_runtime.load("bundle", precision="int8")' in page
    for number in ("0.05 dB", "in the mean; worst image 0.23 dB", "48.5 dB", "87.500 %", "free-running 62.500 %"):
        assert any(number in line for line in page.splitlines()), number
    assert "\n".join(("encode, 1 image", "12.0 ms", "5.00 ms", "2.40 ×")) in page
    assert "\n".join(("encoder file", "4.00 MB", "1.00 MB", "4.00 ×")) in page
    # The same numbers as PyTorch are fp32's promise, and its table has fp32's columns.
    assert "all, step by step\n99.999 %\n99.999 %\n" in page
    figures = found.to_json()["int8"]
    assert figures["timings"][0]["ratio"] == 12 / 5


def test_the_photograph_that_loses_most_is_shown() -> None:
    found = _three(losing=2)
    page = text(render(found, out=Path("demo")))
    assert "Third, which loses most" in page
    gained = found.psnr(found.int8.reconstructions)[0] - found.psnr(found.reconstructions)[0]  # type: ignore[union-attr]
    assert gained > 0
    assert f"{gained:.2f} dB more" in page


def _three(losing: int) -> DemoResults:
    """Three grey photographs, of which fp32 is 4 levels off and int8 2, but for one, where it is 40 off."""
    found = results(parity=MEASURED)
    grey = np.full((3, 16, 16, 3), 100, np.uint8)
    lower = grey + 2
    lower[losing] += 38
    assert isinstance(found.int8, Int8)
    return dataclasses.replace(
        found,
        names=["first", "second", "third"],
        originals=grey,
        reconstructions=grey + 4,
        continuous=grey,
        prefixes=[grey, grey],
        ids=np.repeat(found.ids, 3, 0),
        scales=[np.repeat(scale, 3, 0) for scale in found.scales],
        latent=np.repeat(found.latent, 3, 0),
        int8=Int8(lower, found.int8.timings),
    )


def test_a_tokenizer_that_int8_does_not_suit_is_told_with_the_reason() -> None:
    found = results(parity=MEASURED, reason="loses <1.5> dB")
    page = render(found, out=Path("demo"))
    assert "This tokenizer's bundle holds no int8, which fell short in the export: loses <1.5> dB" in text(page)
    assert 'precision="int8"' not in text(page)
    assert found.to_json()["int8"] == {"reason": "loses <1.5> dB"}


@pytest.mark.parametrize(("vocab", "bits"), [(2, 1), (32, 5), (33, 6), (4096, 12)])
def test_bits_of_a_token(vocab: int, bits: int) -> None:
    found = results(parity=MEASURED)
    spec = Spec("tiny", 16, 8, 4, vocab, (1, 2), 5)
    object.__setattr__(found, "manifest", manifest(spec))
    assert found.bits_per_token == bits
