from __future__ import annotations

import json
from typing import Any

import pytest

from coda_runtime import diagnose as module
from coda_runtime.diagnose import diagnose


def test_it_describes_this_machine() -> None:
    report = json.loads(json.dumps(diagnose(), allow_nan=False))
    assert report["cpu"]["cores"] >= 1
    assert "CPUExecutionProvider" in report["onnxruntime"]["providers"]
    assert report["numpy"]
    assert isinstance(report["advice"], list)


def _report(providers: list[str] | None, gpus: int, **changes: Any) -> dict[str, Any]:
    engine = None if providers is None else {"version": "1", "providers": providers, "problem": None}
    libraries = dict.fromkeys(("pillow", "click", "rich", "huggingface_hub"), "1")
    report = {"onnxruntime": engine, "nvidia": {"devices": gpus}, "libraries": libraries, "coda-deploy": "1"}
    return {**report, **changes}


@pytest.mark.parametrize(
    ("report", "conflict", "match"),
    [
        (_report(["CPUExecutionProvider"], 0), False, None),
        (_report(["CUDAExecutionProvider", "CPUExecutionProvider"], 1), False, None),
        (_report(None, 0), False, 'pip install "coda-runtime[cpu]"'),
        (_report(None, 1), False, 'pip install "coda-runtime[gpu]"'),
        (_report(["CPUExecutionProvider"], 1), True, "both installed"),
        (_report(["CPUExecutionProvider"], 1), False, "a GPU is here"),
        (_report(["CUDAExecutionProvider"], 0), False, "no NVIDIA driver"),
        (_report(["CPUExecutionProvider"], 0, **{"coda-deploy": None}), False, "pip install coda-deploy"),
        (_report([], 0, onnxruntime={"problem": "bad DLL", "providers": []}), False, "bad DLL"),
    ],
)
def test_advice(monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], conflict: bool, match: str | None) -> None:
    monkeypatch.setattr(module, "onnxruntime_conflict", lambda: conflict)
    advice = module._advise(report)
    if match is None:
        assert advice == []
    else:
        assert len(advice) == 1
        assert match in advice[0]


def test_missing_libraries_get_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onnxruntime_conflict", lambda: False)
    report = _report(["CPUExecutionProvider"], 0)
    report["libraries"]["pillow"] = None
    assert module._advise(report) == ['pillow is missing: pip install "coda-runtime[images]"']
