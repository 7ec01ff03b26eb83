from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from coda_runtime.bench import energy
from coda_runtime.bench.energy import EnergyMeter


def counter(folder: Path, package: int, microjoules: int) -> None:
    place = folder / f"intel-rapl:{package}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "energy_uj").write_text(f"{microjoules}\n")
    core = folder / f"intel-rapl:{package}:0"  # a part of the package, counted there already
    core.mkdir(exist_ok=True)
    (core / "energy_uj").write_text("1\n")


def test_packages_are_added_up(tmp_path: Path) -> None:
    counter(tmp_path, 0, 1_000_000)
    counter(tmp_path, 1, 5_000_000)
    meter = EnergyMeter(rapl=tmp_path)
    began = time.perf_counter()
    meter.start()
    counter(tmp_path, 0, 3_000_000)
    counter(tmp_path, 1, 6_000_000)
    watts = meter.stop()
    assert watts["gpu"] is None
    assert watts["cpu"] is not None
    assert watts["cpu"] >= 3 / (time.perf_counter() - began)


@pytest.mark.parametrize("last", ["0", "", None])
def test_what_wrapped_or_cannot_be_read_says_nothing(tmp_path: Path, last: str | None) -> None:
    counter(tmp_path, 0, 1_000_000)
    meter = EnergyMeter(rapl=tmp_path)
    meter.start()
    file = tmp_path / "intel-rapl:0" / "energy_uj"
    file.unlink() if last is None else file.write_text(last)
    assert meter.stop() == {"cpu": None, "gpu": None}


def test_no_kernel_tells() -> None:
    meter = EnergyMeter(rapl=Path("nowhere"))
    meter.start()
    assert meter.stop() == {"cpu": None, "gpu": None}


def test_power_of_the_gpus_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Semaphore(0)

    def smi(query: str) -> list[list[str]]:
        looks.release()
        return [["GPU-a", "100.5"], ["GPU-b", "700"], ["GPU-c", "99.5"]]

    monkeypatch.setattr(energy, "nvidia_smi", smi)
    monkeypatch.setattr(energy, "gpu_uuids", lambda: ("GPU-c", "GPU-a"))
    monkeypatch.setattr(energy, "_EVERY", 0.001)
    meter = EnergyMeter([0, 1], rapl=Path("nowhere"))
    meter.start()
    for _ in range(3):
        assert looks.acquire(timeout=10)
    assert meter.stop()["gpu"] == 200
    monkeypatch.setattr(energy, "nvidia_smi", lambda query: [["GPU-c", "[N/A]"]])
    silent = EnergyMeter([0], rapl=Path("nowhere"))
    silent.start()
    time.sleep(0.05)
    assert silent.stop() == {"cpu": None, "gpu": None}
