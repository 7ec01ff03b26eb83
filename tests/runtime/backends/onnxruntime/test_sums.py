"""The largest sum of products of 8 bits, tried once in a process, and the option where it comes out wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime import backend, sums
from coda_runtime.backends.onnxruntime.providers import CPU
from coda_runtime.errors import BackendError
from coda_runtime.format.bundle import Bundle
from tests.runtime import tiny


class Session:
    """Adds up as a processor without VNNI does, unless it is asked for precise sums."""

    def __init__(self, options: Mapping[str, str], cured: bool) -> None:
        self._sum = 64.0 if cured and options == sums.PRECISE else 0.5

    def run(self, _: None, feed: Mapping[str, Any]) -> list[Any]:
        return [np.full_like(feed["x"], self._sum)]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_found", {})


def make(model: bytes, options: Mapping[str, str]) -> Any:
    settings = onnxruntime.SessionOptions()
    for name, value in options.items():
        settings.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(model, settings, providers=[CPU])


def test_the_model_is_one_and_computes_its_sum_by_precise_sums() -> None:
    model = onnx.load_from_string(sums.largest_sum())
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("Conv") == 1
    (found,) = make(sums.largest_sum(), sums.PRECISE).run(None, {"x": np.ones((1, 64, 4, 4), np.float32)})
    assert np.allclose(found, 64)


def test_right_sums_need_no_option_and_are_tried_once() -> None:
    made: list[Mapping[str, str]] = []

    def count(model: bytes, options: Mapping[str, str]) -> Session:
        made.append(options)
        return Session(sums.PRECISE, cured=True)

    assert [dict(sums.options_for(CPU, count)) for _ in range(3)] == [{}, {}, {}]
    assert made == [{}]


def test_wrong_sums_get_the_option() -> None:
    assert sums.options_for(CPU, lambda _, options: Session(options, cured=True)) == sums.PRECISE
    with pytest.raises(BackendError, match=r"adds up products of 8 bits wrongly on Other here; load another precision"):
        sums.options_for("Other", lambda _, options: Session(options, cured=False))


def test_this_machine_computes_right_one_way_or_the_other() -> None:
    options = sums.options_for(CPU, make)
    (found,) = make(sums.largest_sum(), options).run(None, {"x": np.ones((1, 64, 4, 4), np.float32)})
    assert np.allclose(found, 64)


def test_only_files_of_integers_are_loaded_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make_bundle(tmp_path / "bundle")
    bundle = Bundle.open(folder)
    (encoder,) = bundle.manifest.find("encoder", precision="fp32", format="onnx")
    seen: list[Mapping[str, str]] = []
    whole = backend._make

    def watch(*given: Any) -> Any:
        seen.append(given[5] if len(given) > 5 else {})
        return whole(*given)

    monkeypatch.setattr(backend, "_make", watch)
    monkeypatch.setattr(sums, "_is_right", lambda session: len(seen) > 1)  # the first way is wrong
    import dataclasses

    for precision, expected in (("fp32", [{}]), ("int8", [{}, sums.PRECISE, sums.PRECISE])):
        seen.clear()
        artifact = dataclasses.replace(encoder, precision=precision)
        backend.OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cpu")).close()
        assert [dict(options) for options in seen] == [dict(options) for options in expected]
