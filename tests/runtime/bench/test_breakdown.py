"""Where the time of a call goes: on the CPU, on a stand-in for a GPU, and on a device as lazy as a GPU may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coda_runtime
from coda_runtime.backends.base import LoadOptions, Session
from coda_runtime.backends.cuda import open_device
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.backends.ptx import Launch, device_tables
from coda_runtime.backends.ptx.session import PtxSession
from coda_runtime.bench.breakdown import break_down, steps_of
from coda_runtime.bench.operations import OPERATIONS, Inputs
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from tests.runtime import measurable, tiny
from tests.runtime.backends.cuda.driver.controls import Driver
from tests.runtime.backends.host_kernels import NotingLauncher, kernel_set
from tests.runtime.remote import RemoteBackend

PHOTOS = tiny.photos(5)


@pytest.fixture
def tick() -> Callable[[], float]:
    """A clock that ticks once each time it is read: twice for each step, and twice for the whole around them."""
    ticks = count()
    return lambda: float(next(ticks))


def test_on_the_cpu(bundle: Path, tick: Callable[[], float]) -> None:
    with coda_runtime.load(bundle, device="cpu") as tok:
        found = break_down(tok, Inputs(tok, "round-trip", PHOTOS).batches(2), OPERATIONS["round-trip"], clock=tick)
        assert found.parts == {"encoder": 1.0, "quantizer": 1.0, "decoder": 1.0, "runtime": 4.0}
        assert found.transfers is None
        assert tok.encode(PHOTOS).shape == (5, tiny.TOKENS), "its own sessions are back"


@pytest.mark.parametrize(
    ("operation", "parts", "copies", "runtime"),
    [
        ("encode", ["encoder", "quantizer"], (1.0, 1.0), 5.0),
        ("quantise", ["quantizer"], (1.0, 1.0), 4.0),
        ("decode", ["decoder"], (1.0, 1.0), 4.0),
        ("encode-device", ["encoder", "quantizer"], (0.0, 0.0), 3.0),
        ("decode-device", ["decoder"], (0.0, 1.0), 3.0),  # the ids are fetched, to be checked
    ],
)
def test_copies_are_told_apart_on_a_gpu(
    operation: str, parts: list[str], copies: tuple[float, float], runtime: float, sealed: Path,
    tick: Callable[[], float],
) -> None:  # fmt: skip
    with coda_runtime.load(sealed, backend=RemoteBackend((1, 8, 16))) as tok:
        inputs = Inputs(tok, operation, PHOTOS)
        found = break_down(tok, inputs.batches(2), OPERATIONS[operation], clock=tick)
        assert found.parts == {**dict.fromkeys(parts, 1.0), "runtime": runtime}
        assert found.transfers == {
            "host_to_device": copies[0],
            "compute": float(len(parts)),
            "device_to_host": copies[1],
        }


class Clock:
    """A clock that the work of a lazy device alone moves: 1000 for a copy, 1 for a kernel."""

    def __init__(self, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        self._driver, self._now, self.launched = driver, 0.0, 0
        # Both are imported from modules that need cuda-core.
        from coda_runtime.backends.cuda.device import CudaDevice
        from coda_runtime.backends.ptx.backend import CudaLauncher

        copy, launch = CudaDevice.copy, CudaLauncher.launch

        def copy_and_tick(device: CudaDevice, target: int, source: int, nbytes: int, stream: Any) -> None:
            copy(device, target, source, nbytes, stream)
            self._tick(stream.handle, 1000)

        def launch_and_tick(launcher: CudaLauncher, of: Launch, values: Sequence[int | float], stream: int) -> None:
            launch(launcher, of, values, stream)
            self.launched += 1
            self._tick(stream, 1)

        monkeypatch.setattr(CudaDevice, "copy", copy_and_tick)
        monkeypatch.setattr(CudaLauncher, "launch", launch_and_tick)

    def _tick(self, stream: int, time: float) -> None:
        self._driver.push(stream, lambda: self._pass(time))

    def _pass(self, time: float) -> None:
        self._now += time

    def __call__(self) -> float:
        return self._now


class LazyBackend:
    """The quantizer's own kernels on a lazy device, between an encoder and a decoder on the CPU."""

    name = "lazy"
    formats: tuple[str, ...] = ("onnx",)
    precisions = None

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def missing(self) -> None:
        return None

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> None:
        return None

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        if artifact.part != "quantizer":
            return OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cpu"))
        kernels = kernel_set(tiny.SPEC, tiny.CODES)
        tables = device_tables(kernels, tiny.SPEC, measurable.TABLES, tiny.TABLE)
        launcher = NotingLauncher(self._driver, kernels)
        return PtxSession(kernels, tiny.SPEC, tables, open_device(0), launcher, max_batch=8)


def test_work_counts_where_it_was_asked_for_and_not_where_it_is_waited_for(
    bundle: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, clock = LazyBackend(driver), Clock(driver, monkeypatch)
    with coda_runtime.load(bundle, device="cpu") as tok:
        expected = tok.encode(PHOTOS[:2])
    with coda_runtime.load(bundle, backend=backend) as tok:
        run = Inputs(tok, "encode", PHOTOS).batches(2)
        np.testing.assert_array_equal(run(0), expected)
        launched = clock.launched
        found = break_down(tok, run, OPERATIONS["encode"], clock=clock)
        np.testing.assert_array_equal(run(0), expected)
    # The kernels read and write buffers of their own, so there are two copies inside the device.
    compute = 2000.0 + launched
    assert found.transfers == {"host_to_device": 1000.0, "compute": compute, "device_to_host": 1000.0}
    assert found.parts == {"encoder": 0.0, "quantizer": compute, "runtime": 0.0}


def test_steps_of_a_measurement() -> None:
    transfers = {"host_to_device": 1.0, "compute": 2.0, "device_to_host": 3.0}
    parts = {"encoder": 2.0, "runtime": 0.5}
    assert steps_of({"parts_s": parts, "transfers_s": transfers}) == {
        **parts,
        "host_to_device": 1.0,
        "device_to_host": 3.0,
    }
    assert steps_of({"parts_s": parts, "transfers_s": None}) == steps_of({"parts_s": parts}) == parts
    assert steps_of({"parts_s": None}) == {}


@pytest.mark.gpu
def test_on_a_gpu(bundle: Path) -> None:
    with coda_runtime.load(bundle, device="cuda:0") as tok:
        host, device = Inputs(tok, "encode", PHOTOS), Inputs(tok, "encode-device", PHOTOS)
        out: Any = device.batches(4)(0)
        np.testing.assert_array_equal(out.numpy(), host.batches(4)(0))
        copied = break_down(tok, host.batches(4), OPERATIONS["encode"])
        assert copied.transfers is not None
        assert min(*copied.transfers.values(), *copied.parts.values()) > 0
        stays = break_down(tok, device.batches(4), OPERATIONS["encode"]).transfers
        assert stays is not None
        assert (stays["host_to_device"], stays["device_to_host"]) == (0.0, 0.0)
