from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.portability.precisions import FIRST, HERE, PRECISIONS, Where, answer, compared, rows, table
from coda_runtime.format.bundle import Bundle
from coda_runtime.parity import SavedReference


def test_every_precision_begins_with_what_it_is_compared_with() -> None:
    for qemu in (False, True):
        found = rows(qemu)
        for precision in PRECISIONS:
            of_it = [row for row in found if row[0] == precision]
            assert of_it[0] == (precision, FIRST[precision], HERE)
        assert ("bf16", "onnxruntime") not in {row[:2] for row in found}
    assert len(rows(True)) > len(rows(False))


def test_switches_are_those_of_the_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert "ONEDNN_MAX_CPU_ISA" not in HERE.environment()
    assert Where("x", switches={"ONEDNN_MAX_CPU_ISA": "AVX2"}).environment()["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert Where("x", cpu="max").command()[:3] == ["qemu-x86_64", "-cpu", "max"]


def test_ids_and_latents_are_compared_with_the_first(tiny_bundle: Path, tmp_path: Path) -> None:
    reference = SavedReference.open(Bundle.open(tiny_bundle))
    np.save(tmp_path / "images.npy", reference.samples.images[:2])
    found = {}
    for precision in ("fp32", "fp16"):
        answer(tiny_bundle, tmp_path / "images.npy", tmp_path / "out.npz", precision, "onnxruntime", 1)
        with np.load(tmp_path / "out.npz") as arrays:
            found[precision] = {name: arrays[name] for name in arrays.files}
    same = compared(found["fp32"], found["fp32"], reference)
    assert same == {"equal": 1.0, "step_agreement": 1.0, "images_equal": 2, "images": 2, "latent_error": 0.0}
    other = dict(found["fp16"], ids=found["fp32"]["ids"].copy())
    other["ids"][1, 0] ^= 1
    changed = compared(other, found["fp32"], reference)
    assert changed["images_equal"] == 1
    assert 0.9 < changed["equal"] < 1
    assert 0 < changed["latent_error"] < 0.01
    named = {"precision": "fp32", "engine": "e", "where": "w"}
    lines = table([named | same, named | changed, named | {"reason": "no such thing"}])
    assert lines[2].startswith("| fp32 | e | w | 100 % | 2 of 2 | 100 % | nothing |")
    assert "| 1 of 2 |" in lines[3]
    assert lines[4].startswith("| fp32 | e | w | not run: no such thing |")
