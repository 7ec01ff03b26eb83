"""Which GPUs a process has: after a fork, and where CUDA_VISIBLE_DEVICES shows some of the machine's alone."""

from __future__ import annotations

import os
from pathlib import Path

from coda_runtime.format.bundle import describe_file
from coda_runtime.format.manifest import Artifact
from tests.runtime import measurable, tiny
from tests.runtime.backends.cuda import driver
from tests.runtime.backends.host_kernels import kernel_set, with_ptx

FORKED = """
import os, sys, warnings
from coda_runtime import CodaError, load
from coda_runtime.diagnose import diagnose
from coda_runtime.machine.devices import count_cuda_devices

assert count_cuda_devices() == 2  # as torch does, or a load before
sys.stdout.flush()
child = os.fork()
if child == 0:
    for device in ("auto", "cuda:0"):
        try:
            load(sys.argv[1], device=device).close()
            print("loaded")
        except CodaError as error:
            print(type(error).__name__, error)
    with load(sys.argv[1], device="cpu") as tok:
        print({artifact.device for artifact in tok.artifacts})
    print(diagnose()["nvidia"]["problem"])
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_says_that_it_has_no_gpu(tmp_path: Path) -> None:
    """With "auto" it ran on the CPU without a word: CUDA does not start again in a child."""
    folder = measurable.make(tmp_path / "bundle")
    kernels, ptx = with_ptx(kernel_set(tiny.SPEC, tiny.CODES))
    (folder / "quantizer.ptx").write_bytes(ptx)
    sha256, size = describe_file(folder, "quantizer.ptx")
    measurable.make(
        folder, Artifact("quantizer", "ptx", "fp32", "quantizer.ptx", sha256, size, engine=kernels.to_json())
    )
    automatic, by_name, cpu, problem = driver.run(FORKED, folder).stdout.splitlines()
    told = "CUDA began before this process was forked, and does not run in the child: start processes by spawn"
    assert automatic.startswith(f"DeviceError {told}")
    assert told in by_name
    assert cpu == "{'cpu'}"
    assert problem.startswith(told)


CLOCKS = """
from coda_runtime.bench.energy import EnergyMeter
from coda_runtime.bench.machine import gpu_slowed, gpus
print([gpu_slowed(index) for index in range(3)], [(gpu["index"], gpu["name"]) for gpu in gpus()])
print(EnergyMeter([0])._gpus)
"""

NVIDIA_SMI = """#!/bin/sh
case "$1" in
*clocks_event_reasons*) echo "$A, 0x0000000000000020"; echo "$B, 0x0000000000000004";;
*uuid,index,name*) for gpu in "$A, 0, First" "$B, 1, Second"; do echo "$gpu, 580.1, 1024, 1, 2, 700, Enabled, Disabled"; done;;
*) exit 1;;
esac
"""


def test_clocks_are_those_of_the_gpus_that_are_shown(tmp_path: Path) -> None:
    """nvidia-smi counts the GPUs of the machine, CUDA those that CUDA_VISIBLE_DEVICES names."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    a, b = (f"GPU-0000000{number}-0000-0000-0000-000000000000" for number in range(2))
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "A": a, "B": b}
    both = driver.run(CLOCKS, **env).stdout.splitlines()
    assert both == ["[True, False, None] [(0, 'First'), (1, 'Second')]", f"{{'{a}'}}"]
    second = driver.run(CLOCKS, **env, CUDA_VISIBLE_DEVICES="1").stdout.splitlines()
    assert second == ["[False, None, None] [(0, 'Second')]", f"{{'{b}'}}"]
    turned = driver.run(CLOCKS, **env, CUDA_VISIBLE_DEVICES="1,0").stdout.splitlines()
    assert turned == ["[False, True, None] [(0, 'Second'), (1, 'First')]", f"{{'{b}'}}"]
