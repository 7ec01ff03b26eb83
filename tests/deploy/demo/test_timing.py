from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import coda_runtime
from coda_deploy.demo import timing
from coda_deploy.demo.timing import BATCHES, Timing, compare_precisions
from coda_deploy.evaluate.devices import torch_threads


def test_pytorch_has_its_threads_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_ratio_says_how_much_faster_the_runtime_is() -> None:
    assert Timing("encoder", 1, torch_ms=30, runtime_ms=10, rounds=3, threads=1).ratio == pytest.approx(3)


def test_two_precisions_take_turns_on_the_same_images_and_ids(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[np.ndarray]] = []

    def two_to_one(runs: Sequence[Callable[[], object]], *_: object, **__: object) -> list[list[float]]:
        ran.append([np.asarray(run()) for run in runs])
        return [[0.002, 0.006, 0.004], [0.001, 0.003, 0.002]]

    monkeypatch.setattr(timing, "interleave", two_to_one)
    told: list[str] = []
    with (
        coda_runtime.load(tiny_bundle, device="cpu", precision="fp32") as fp32,
        coda_runtime.load(tiny_bundle, device="cpu", precision="fp16") as lower,
    ):
        side = fp32.spec.image_size
        images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
        found = compare_precisions(fp32, lower, images, told.append)
        ids = fp32.encode(images)
        assert all(len(pair[0]) == len(pair[1]) for pair in ran)
        assert np.array_equal(ran[2][0][:3], ids)
        assert np.array_equal(ran[3][1][:3], lower.decode(ids))
        assert np.array_equal(ran[3][0][:3], fp32.decode(ids))
    assert [(of.operation, of.batch) for of in found] == [(name, n) for n in BATCHES for name in ("encode", "decode")]
    assert len(told) == len(found)
    assert {(of.fp32_ms, of.int8_ms, of.ratio, of.rounds) for of in found} == {(4.0, 2.0, 2.0, 3)}
