"""Which settings are compared: what "auto" may take, and no precision that loses more than it may."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from coda_runtime import InputError
from coda_runtime.backends.base import LoadOptions
from coda_runtime.format.bundle import Bundle
from coda_runtime.machine import processors
from coda_runtime.tune import settings
from coda_runtime.tune.settings import Candidate, Skipped, Wanted, find_settings, recorded_drop, thread_choices
from tests.runtime import second_backend

CPU = LoadOptions("cpu")


@pytest.fixture
def opened(bundle: Path, second: None) -> Bundle:
    return Bundle.open(bundle)


def in_two(bundle: Bundle, *drops: object) -> Bundle:
    """The bundle, whose graphs are there in fp16 too, each with what images lose in it; no file of it is needed."""
    graphs = [of for of in bundle.manifest.artifacts if of.part in ("encoder", "decoder")]
    more = [dataclasses.replace(of, precision="fp16", file=f"{of.part}.fp16.onnx") for of in graphs]
    for at, drop in enumerate(drops):
        numbers: Any = {"psnr": 60.0, "psnr_drop": drop}
        more[at] = dataclasses.replace(more[at], parity={"onnxruntime:cpu": numbers})
    manifest = dataclasses.replace(bundle.manifest, artifacts=(*bundle.manifest.artifacts, *more))
    return Bundle(bundle.folder, manifest, b"")


def test_each_backend_and_number_of_threads(opened: Bundle) -> None:
    found, skipped = find_settings(opened, CPU, Wanted(threads=(None, 1)))
    assert found == [
        Candidate("onnxruntime", "fp32", None, unasked=True),
        Candidate("onnxruntime", "fp32", 1),
        Candidate("second", "fp32", None),
        Candidate("second", "fp32", 1),
    ]
    assert [of for of in skipped if of.backend in ("onnxruntime", "second")] == []
    found, _ = find_settings(opened, CPU, Wanted(backends=("second",), threads=(1,)))
    assert found == [Candidate("second", "fp32", 1)]


def test_what_may_not_run_is_told(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_backend.Second, "check", lambda self, *_: InputError("not today"))
    found, skipped = find_settings(opened, CPU, Wanted(threads=(1,)))
    assert [of.backend for of in found] == ["onnxruntime"]
    assert Skipped("fp32", "second", "not today") in skipped


@pytest.mark.parametrize(
    ("drops", "most", "reason"),
    [
        ((0.05, 0.08), 0.1, None),
        ((0.05, 0.2), 0.1, "images lose 0.20 dB in it, and 0.1 dB is the most"),
        ((0.05,), 0.0, "images lose 0.05 dB in it, and 0 dB is the most"),
        ((), 10.0, "the bundle does not say what images lose in it"),
        ((None,), 10.0, "the bundle does not say what images lose in it"),
        ((), None, None),
    ],
)
def test_precisions_by_what_pictures_lose(
    opened: Bundle, drops: tuple[object, ...], most: float | None, reason: str | None
) -> None:
    both = in_two(opened, *drops)
    found, skipped = find_settings(both, CPU, Wanted(backends=("onnxruntime",), threads=(1,), max_psnr_drop=most))
    assert {of.precision for of in found} == ({"fp32", "fp16"} if reason is None else {"fp32"})
    assert [of.reason for of in skipped if of.backend is None] == ([] if reason is None else [reason])
    assert recorded_drop(both.manifest, "fp32") == 0.0


def test_precisions_that_are_asked_for(opened: Bundle) -> None:
    both = in_two(opened)
    asked = Wanted(("onnxruntime",), ("auto", "fp32"), (1,))
    assert [of.precision for of in find_settings(both, CPU, asked)[0]] == ["fp32"]
    with pytest.raises(InputError, match="precision is 'bf16'; this bundle has"):
        find_settings(both, CPU, Wanted(precisions=("bf16",)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"backends": ("cuda",)}, "backend is 'cuda'; expected some of those"),
        ({"backends": ("none",)}, "backend is 'none'"),
        ({"threads": (0,)}, "threads is 0; expected auto, or whole numbers from 1 to"),
        ({"threads": (100_000,)}, "threads is 100000"),
        ({"max_psnr_drop": -1.0}, "may drop by -1 dB"),
        ({"max_psnr_drop": float("nan")}, "may drop by nan dB"),
    ],
)
def test_what_cannot_be_asked_for(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Wanted(**wrong)


@pytest.mark.parametrize(
    ("cores", "usable", "default", "choices"),
    [
        (1, 1, None, (None,)),
        (2, 2, None, (None, 1)),
        (8, 16, None, (None, 16, 4)),
        (8, 4, 4, (None, 2)),
        (4, 1, 1, (None,)),
        (3, 3, None, (None, 2)),
    ],
)
def test_numbers_of_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, usable: int, default: int | None, choices: tuple[int | None, ...]
) -> None:
    monkeypatch.setattr(settings, "physical_cores", lambda: cores)
    monkeypatch.setattr(settings, "usable_count", lambda: usable)
    monkeypatch.setattr(settings, "default_threads", lambda: default)
    assert thread_choices(CPU) == choices
    assert thread_choices(LoadOptions("cuda:1")) == (None,)


def test_here_all_of_them_may_run() -> None:
    Wanted(threads=thread_choices(CPU))
    assert max(of or 0 for of in thread_choices(CPU)) <= len(processors.usable_cpus())
