"""The memory of a process, by the kernel's own count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coda_runtime.machine import memory

pytestmark = pytest.mark.skipif(memory.resident_bytes() is None, reason="this system does not tell")


def test_another_process() -> None:
    code = "held = bytearray(b'x') * (200 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        found = memory.resident_bytes(other.pid)
        other.communicate(b"\n")
    assert found is not None
    assert 200 << 20 < found < 300 << 20
    assert memory.resident_bytes(other.pid) is None
    assert memory.resident_bytes(os.getpid()) is not None


def test_the_peak_since_the_start_outlives_what_was_freed() -> None:
    code = (
        "from coda_runtime.machine import memory\n"
        "held = bytearray(b'x') * (200 << 20); now = memory.resident_bytes(); del held\n"
        "print(now, memory.peak_bytes(), memory.resident_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held, peak, after = map(int, done.stdout.split())
    # The kernel sums up its counts now and then: RSS may be ahead of its peak by a little.
    assert after + (190 << 20) < held < peak + (4 << 20) < held + (24 << 20)


# In a process of its own: here the garbage of other tests is freed at any time, hundreds of MB of it.
PEAK = """
import sys, time
from pathlib import Path
import numpy as np
from coda_runtime.machine import memory

if sys.argv[1:]:
    memory._CLEAR = Path(sys.argv[1])
np.ones(300 << 20, np.uint8)[0] = 2  # before: not part of it
with memory.watch_peak() as peak:
    before = memory.resident_bytes()
    held = np.ones(100 << 20, np.uint8)
    time.sleep(0.2)
    del held
print(peak.bytes - before)
"""


@pytest.mark.parametrize("resettable", [True, False])
def test_the_peak_is_that_of_the_block_alone(resettable: bool, tmp_path: Path) -> None:
    missing = [] if resettable else [str(tmp_path / "missing" / "clear_refs")]
    done = subprocess.run([sys.executable, "-c", PEAK, *missing], capture_output=True, text=True, check=True)
    assert 90 << 20 < int(done.stdout) < 250 << 20
