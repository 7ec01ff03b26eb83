"""Energy of a block of work, where the kernel (RAPL) or the NVIDIA driver tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ..machine.devices import gpu_uuids, nvidia_smi

_RAPL = Path("/sys/class/powercap")
_EVERY = 0.25  # seconds between two looks at a GPU's power


class EnergyMeter:
    """Watts of the processors' packages and of some GPUs, from `start` to `stop`; all of the machine's, not ours alone.

    A package's energy is counted by the kernel, which often lets root alone read it; a GPU's is its power draw, asked
    for four times a second.

    Args:
        gpus: their numbers, as CUDA has them: N of "cuda:N".
        rapl: where the kernel shows its counters.
    """

    def __init__(self, gpus: Sequence[int] = (), *, rapl: Path = _RAPL) -> None:
        shown = gpu_uuids() if gpus else ()
        self._gpus = {shown[index] for index in gpus if index < len(shown)}
        self._packages = [folder for folder in sorted(rapl.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        self._before: list[int] | None = None
        self._began = 0.0
        self._draws: list[float] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        if self._gpus:
            self._thread = threading.Thread(target=self._look, name="coda-watts", daemon=True)
            self._thread.start()
        self._before, self._began = self._counters(), time.perf_counter()

    def stop(self) -> dict[str, float | None]:
        """End, and return the mean watts of "cpu" and "gpu"; None where nobody tells, or the time was too short."""
        seconds, after = time.perf_counter() - self._began, self._counters()
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        cpu = None
        if self._before and after and len(after) == len(self._before) and seconds > 0:
            joules = [1e-6 * (end - start) for start, end in zip(self._before, after, strict=True)]
            # A counter that wrapped round says nothing.
            cpu = sum(joules) / seconds if min(joules) >= 0 and sum(joules) > 0 else None
        return {"cpu": cpu, "gpu": sum(self._draws) / len(self._draws) if self._draws else None}

    def _counters(self) -> list[int] | None:
        """Return the microjoules of each package."""
        try:
            return [int((folder / "energy_uj").read_text()) for folder in self._packages]
        except (OSError, ValueError):
            return None

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            rows = nvidia_smi("--query-gpu=uuid,power.draw")
            try:
                draw = sum(float(watts) for uuid, watts in rows if uuid in self._gpus)
            except ValueError:  # "[N/A]"
                return
            if draw:
                self._draws.append(draw)
