"""What it was measured on: GPU, driver, clocks, libraries."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.gpu.roofline import ceilings
from coda_runtime.bench import machine as host
from coda_runtime.diagnose import diagnose
from coda_runtime.errors import DeviceError
from coda_runtime.machine.processors import describe_cpu

_SMI = (
    "name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "power.draw", "power.limit", "temperature.gpu", "clocks_event_reasons.active",
)  # fmt: skip
_LIBRARIES = (
    "torch", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu12-libs",
    "tensorrt-rtx-cu13-libs", "torch-tensorrt", "cuda-core", "cuda-bindings", "diffusers", "peft",
    "onnx", "onnxscript", "numpy",
)  # fmt: skip


def clocks() -> dict[str, str]:
    """What nvidia-smi says of the first GPU now; empty where there is none. Only reads."""
    found = shutil.which("nvidia-smi")
    if found is None:
        return {}
    command = [found, f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader", "-i", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return dict(zip(_SMI, map(str.strip, done.stdout.split(",")), strict=False)) if done.returncode == 0 else {}


def describe(device: str) -> dict[str, Any]:
    """Everything about the machine, and its ceilings, measured now."""
    out: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": describe_cpu()["model"] or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name)) is not None},
        "host": host.describe(),
    }
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"this PyTorch ({torch.__version__}) finds no NVIDIA GPU: see nvidia-smi, and in a container "
            "`docker run --gpus all`; --device cpu proves the flow"
        )
    out["ceilings"] = ceilings(device)
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        out |= {
            "device": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nvidia_smi_after_ceilings": clocks(),
        }
    else:
        out["device"] = "cpu: the flow alone, no measurement"
    return out


def doctor() -> dict[str, Any]:
    """What `coda doctor --json` says, without the path of Python, which may hold somebody's name."""
    return {name: found for name, found in diagnose().items() if name != "executable"}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
