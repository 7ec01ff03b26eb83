"""Which GPUs a process has: after a fork, and where CUDA_VISIBLE_DEVICES shows some of the machine's alone."""

from __future__ import annotations

import os
from pathlib import Path

from coda_runtime.format.bundle import describe_file
from coda_runtime.format.manifest import Artifact
from tests.runtime import measurable, tiny
from tests.runtime.backends import engines
from tests.runtime.backends.cuda import driver
from tests.runtime.backends.host_kernels import kernel_set, with_ptx

FORKED = """
import os, sys
from types import SimpleNamespace
from coda_runtime import CodaError, load
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime.providers import CPU, CUDA, follow_device
from coda_runtime.diagnose import _nvidia
from coda_runtime.machine.devices import count_cuda_devices

assert count_cuda_devices() == 2  # as torch does, or a load before
sys.stdout.flush()
child = os.fork()
if child == 0:
    with_cuda = SimpleNamespace(get_available_providers=lambda: [CUDA, CPU])
    for call in (
        lambda: load(sys.argv[1]),
        lambda: load(sys.argv[1], backend="cuda"),
        lambda: follow_device(with_cuda, LoadOptions(), None),
    ):
        try:
            print("no error:", call())
        except CodaError as error:
            print(f"{type(error).__name__}: {error}")
    print(_nvidia()["problem"])
    with load(sys.argv[1], device="cpu") as tok:
        print({artifact.device for artifact in tok.artifacts})
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
    quantizer = Artifact("quantizer", "ptx", "fp32", "quantizer.ptx", sha256, size, engine=kernels.to_json())
    measurable.make(folder, quantizer, engines.write(folder, folder, "decoder", (1, 2, 4)))
    *errors, problem, cpu = driver.run(FORKED, folder).stdout.splitlines()
    told = "CUDA began before this process was forked, and does not run in the child: start processes by spawn"
    assert len(errors) == 3
    for error in errors:
        assert error.startswith(f"DeviceError: {told}")
    assert problem.startswith(told)
    assert cpu == "{'cpu'}"


ARRAYS = """
import gc, os, sys
import numpy as np
from coda_runtime.backends import cuda
from coda_runtime.backends.cuda.transfers import Transfers

layer = cuda.open_device(0)
with layer.active():
    array = Transfers(layer, cuda.StagingPool(layer), layer.create_stream()).copy_in(np.arange(6))
    pages = layer.allocate_host(64)
child = os.fork()
if child == 0:
    del array, pages
    gc.collect()
    sys.stderr.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(array.numpy().tolist())
"""


def test_what_a_forked_child_drops_stays_the_parent_s() -> None:
    done = driver.run(ARRAYS)
    assert (done.stdout, done.stderr) == ("[0, 1, 2, 3, 4, 5]\n", "")


CLOCKS = """
from coda_runtime.bench.energy import EnergyMeter
from coda_runtime.bench.machine import gpu_slowed, gpus
print([gpu_slowed(index) for index in range(3)], [(gpu["index"], gpu["name"]) for gpu in gpus()])
print(EnergyMeter([0])._gpus)
"""

NVIDIA_SMI = """#!/bin/sh
case "$1" in
*clocks_event_reasons*) echo "$A, 0x0000000000000020"; echo "$B, 0x0000000000000004";;
*uuid,index,name*) echo "$A, 0, First, 580.1, 9, 1, 2, 7, Enabled, Disabled"
                   echo "$B, 1, Second, 580.1, 9, 1, 2, 7, Enabled, Disabled";;
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
