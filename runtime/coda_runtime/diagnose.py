"""What `coda doctor` reports: this machine, the libraries on it, and what to install."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .devices import count_cuda_devices, installed_version, onnxruntime_conflict

_ENGINES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)
_OPTIONAL = {"pillow": "images", "click": "cli", "rich": "cli", "huggingface_hub": "hub"}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def diagnose() -> dict[str, Any]:
    """All that decides how a bundle runs here, as JSON holds it; `advice` lists what to do, most urgent first."""
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "coda-runtime": installed_version("coda-runtime"),
        "coda-deploy": installed_version("coda-deploy"),
        "numpy": installed_version("numpy"),
        "engines": {name: version for name in _ENGINES if (version := installed_version(name)) is not None},
        "onnxruntime": _onnxruntime(),
        "nvidia": _nvidia(),
        "libraries": {name: installed_version(name) for name in _OPTIONAL},
    }
    report["advice"] = _advise(report)
    return report


def _cpu() -> dict[str, Any]:
    out: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "model": None, "flags": []}
    if hasattr(os, "sched_getaffinity"):
        out["cores"] = len(os.sched_getaffinity(0))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return out
    for line in lines:
        key, _, value = (piece.strip() for piece in line.partition(":"))
        if key == "model name":
            out["model"] = value
        elif key.lower() in ("flags", "features"):
            out["flags"] = [flag for flag in _CPU_FLAGS if flag in value.split()]
            break
    return out


def _onnxruntime() -> dict[str, Any] | None:
    """What importing onnxruntime gives, which two distributions of one name decide together; None if not installed."""
    try:
        library = importlib.import_module("onnxruntime")
        return {"version": library.__version__, "providers": list(library.get_available_providers()), "problem": None}
    except ModuleNotFoundError as error:
        if error.name == "onnxruntime":
            return None
        return {"version": None, "providers": [], "problem": str(error)}
    except Exception as error:  # a broken installation is what this command is for
        return {"version": None, "providers": [], "problem": " ".join(str(error).split())}


def _nvidia() -> dict[str, Any]:
    out: dict[str, Any] = {"devices": count_cuda_devices(), "driver": None, "names": [], "problem": None}
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return out
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        out["problem"] = f"nvidia-smi failed: {error}"
        return out
    for line in answer.stdout.splitlines():
        name, driver, memory = (piece.strip() for piece in (line + ",,").split(",")[:3])
        out["names"].append(f"{name} ({memory})")
        out["driver"] = driver
    return out


def _advise(report: dict[str, Any]) -> list[str]:
    engine, has_gpu = report["onnxruntime"], report["nvidia"]["devices"] > 0
    wanted = 'pip install "coda-runtime[gpu]"' if has_gpu else 'pip install "coda-runtime[cpu]"'
    advice = []
    if onnxruntime_conflict():
        advice.append(
            "onnxruntime and onnxruntime-gpu are both installed, and then only the CPU works: "
            f"pip uninstall -y onnxruntime onnxruntime-gpu && {wanted}"
        )
    elif engine is None:
        advice.append(f"no engine library, so no bundle can run: {wanted}")
    elif engine["problem"] is not None:
        again = wanted.replace("install", "install --force-reinstall")
        advice.append(f"onnxruntime does not import ({engine['problem']}): {again}")
    elif has_gpu and "CUDAExecutionProvider" not in engine["providers"]:
        advice.append(f"a GPU is here, and this onnxruntime cannot use it: pip uninstall -y onnxruntime && {wanted}")
    elif not has_gpu and "CUDAExecutionProvider" in engine["providers"]:
        advice.append("onnxruntime-gpu is here, and no NVIDIA driver shows a GPU: bundles run on the CPU")
    for name, extra in _OPTIONAL.items():
        if report["libraries"][name] is None:
            advice.append(f'{name} is missing: pip install "coda-runtime[{extra}]"')
    if report["coda-deploy"] is None:
        advice.append("coda-deploy is not here; to train, import, export or run the demo: pip install coda-deploy")
    return advice
