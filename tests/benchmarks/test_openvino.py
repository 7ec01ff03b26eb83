"""The benchmark of the backend openvino: every figure of its table is there, and what cannot run says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_openvino import measure, shown

pytest.importorskip("openvino", reason="openvino is not installed")


def test_a_row_of_each_backend(tiny_bundle: Path) -> None:
    for backend in ("onnxruntime", "openvino"):
        row = measure(tiny_bundle, backend, "fp32", 1, 0.01)
        assert row["load_s"] > 0
        assert min(row["encode_ms"], row["decode_ms"], *row["encode_per_s"].values()) > 0
        assert " ms, " in shown(row)


def test_what_cannot_run_says_why(tiny_bundle: Path) -> None:
    row = measure(tiny_bundle, "openvino", "fp16", None, 0.01)
    assert "not run: encoder.fp16.onnx is in fp16" in shown(row)
