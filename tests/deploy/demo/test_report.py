"""The report of findings that no real run gives: other shapes, hostile names, parts that were not run."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coda_deploy.demo.report import render
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


@pytest.mark.parametrize(("vocab", "bits"), [(2, 1), (32, 5), (33, 6), (4096, 12)])
def test_bits_of_a_token(vocab: int, bits: int) -> None:
    found = results(parity=MEASURED)
    spec = Spec("tiny", 16, 8, 4, vocab, (1, 2), 5)
    object.__setattr__(found, "manifest", manifest(spec))
    assert found.bits_per_token == bits
