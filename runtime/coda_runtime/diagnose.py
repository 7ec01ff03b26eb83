"""What `coda doctor` reports: this machine, the libraries on it, and what to install."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import tuned
from .backends.onnxruntime.library import load_library
from .backends.onnxruntime.plugins import installed_plugins
from .backends.onnxruntime.providers import NVIDIA
from .backends.openvino import library as openvino
from .errors import DeviceError, MissingDependencyError, OutputError, one_line
from .format.precision import precision_of
from .machine.devices import count_cuda_devices, cuda_driver_version, onnxruntime_conflict
from .machine.processors import describe_cpu, instructions_for
from .requirements import ENGINE_LIBRARIES, ONNXRUNTIME_GPU, how_to_install, installed_version, needed, pip_install

# These need nothing beside onnxruntime; Azure's only calls a service.
_ALWAYS = ("CPUExecutionProvider", "AzureExecutionProvider")
_OPTIONAL = ("pillow", "click", "rich", "huggingface_hub")
_OF_COMMANDS = {"kserve": ("serve", "coda serve"), "ray": ("bulk", "coda tokenize")}


def diagnose() -> dict[str, Any]:
    """Return all that decides how a bundle runs here, as JSON holds it; `advice` is what to do, most urgent first."""
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu": describe_cpu(),
        "coda-runtime": installed_version("coda-runtime"),
        "coda-deploy": installed_version("coda-deploy"),
        "numpy": installed_version("numpy"),
        "engines": {name: version for name in ENGINE_LIBRARIES if (version := installed_version(name)) is not None},
        "onnxruntime": _onnxruntime(),
        "plugins": _plugins(),
        "openvino": _openvino(),
        "nvidia": _nvidia(),
        "tuning": _tuning(),
        "libraries": {name: installed_version(name) for name in (*_OPTIONAL, *_OF_COMMANDS)},
    }
    report["not_starting"] = _not_starting(report)
    report["precisions"] = _precisions(report)
    report["advice"] = _advise(report)
    return report


def _onnxruntime() -> dict[str, Any] | None:
    """Return what importing onnxruntime gives, which two distributions may share; None if not installed."""
    try:
        library = load_library()
        return {"version": library.__version__, "providers": list(library.get_available_providers()), "problem": None}
    except MissingDependencyError:
        return None
    except Exception as error:  # a broken installation is what this command is for
        return {"version": None, "providers": [], "problem": one_line(error, limit=None)}


def _plugins() -> list[dict[str, Any]]:
    """Return the plugins of onnxruntime: name, version, providers, devices, problem.

    A process of its own asks them, since a library that does not fit may end the process that loads it.
    """
    found = installed_plugins()
    if not found:
        return []
    code = (
        "import json; from coda_runtime.backends.onnxruntime import library, plugins; "
        "print(json.dumps(plugins.describe_plugins(library.load_library())))"
    )
    try:
        described: list[dict[str, Any]] = _asked(code)
        return described
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        problem = one_line(error, limit=None).replace(code, "...")
    empty: dict[str, Any] = {"providers": [], "devices": [], "problem": f"it does not load: {problem}"}
    return [{"name": plugin.distribution, "version": plugin.version, **empty} for plugin in found]


def _openvino() -> dict[str, Any] | None:
    """Return what the package openvino finds in this processor: capabilities, exact_integers, problem.

    None where it is not installed. A process of its own asks it, as `_plugins`.
    """
    if openvino.missing() is not None:
        return None
    code = (
        "import json; from coda_runtime.backends.openvino import integers, library; "
        "print(json.dumps([sorted(library.capabilities()), integers.are_exact()]))"
    )
    try:
        capabilities, exact = _asked(code)
        return {"capabilities": capabilities, "exact_integers": exact, "problem": None}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        problem = one_line(error, limit=None).replace(code, "...")
    return {"capabilities": [], "exact_integers": None, "problem": f"it does not load: {problem}"}


def _not_starting(report: dict[str, Any]) -> dict[str, str]:
    """Return those of onnxruntime's providers that are compiled in and do not start, and why.

    NVIDIA's are asked only where there is a GPU. A process of its own starts each, as in `_plugins`.
    """
    out = {}
    for name in [] if report["onnxruntime"] is None else report["onnxruntime"]["providers"]:
        if name in _ALWAYS or (name in NVIDIA and not report["nvidia"]["devices"]):
            continue
        code = (
            "import json; from coda_runtime.backends.onnxruntime import starting; "
            f"print(json.dumps(starting.why_not({name!r})))"
        )
        try:
            why = _asked(code)
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            why = one_line(error, limit=None).replace(code, "...")
        if why is not None:
            out[name] = why
    return out


def _asked(code: str) -> Any:
    """Return the JSON that Python code prints last, in a process of its own.

    Raises OSError, SubprocessError, ValueError, IndexError.
    """
    # -P leaves the user's working directory out of the path; coda_runtime may lie in a folder that is on it here only.
    command, folder = [sys.executable, "-P", "-c", code], str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    answer = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=30, check=True, env=environment
    )
    return json.loads(answer.stdout.splitlines()[-1])


def _precisions(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the precisions that need instructions of the processor: those it has, None if unknown, and what runs them.

    `exact` is False where the largest sums overflow, so that what runs it takes a slower way round.
    """
    ort, native = report["onnxruntime"], report["openvino"]
    plugins = [plugin["name"] for plugin in report["plugins"] if plugin["devices"]]
    out = {}
    for name, instructions in instructions_for(report["cpu"]).items():
        precision, by = precision_of(name), list[str]()
        if precision.onnxruntime_cpu:
            by += ["onnxruntime"] if ort is not None and ort["problem"] is None else []
        else:
            by += [plugin for plugin in plugins if plugin == "onnxruntime-ep-openvino"]
        if native is not None and name.upper() in native["capabilities"]:
            by.append("openvino")
        exact = native["exact_integers"] if precision.is_integer and native is not None else None
        out[name] = {"instructions": instructions, "by": by, "exact": exact}
    return out


def _tuning() -> dict[str, Any]:
    """Return where `coda tune` keeps its records, and how many there are; `coda inspect` tells those of a bundle."""
    try:
        folder = tuned.folder()
    except OutputError:
        return {"folder": None, "records": 0}
    return {"folder": str(folder), "records": len(list(folder.glob("*.json")))}


def _nvidia() -> dict[str, Any]:
    out: dict[str, Any] = {"devices": 0, "driver": None, "cuda": cuda_driver_version(), "names": [], "problem": None}
    try:
        out["devices"] = count_cuda_devices()
    except DeviceError as error:
        out["problem"] = str(error)
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
        name, driver, memory = (value.strip() for value in (line + ",,").split(",")[:3])
        out["names"].append(f"{name} ({memory})")
        out["driver"] = driver
    return out


def _advise(report: dict[str, Any]) -> list[str]:
    ort, has_gpu = report["onnxruntime"], report["nvidia"]["devices"] > 0
    wanted = ONNXRUNTIME_GPU if has_gpu else "onnxruntime"
    advice = []
    if onnxruntime_conflict():
        advice.append(
            "onnxruntime and onnxruntime-gpu are both installed, and then only the CPU works: "
            f"pip uninstall -y onnxruntime onnxruntime-gpu && {pip_install(wanted)}"
        )
    elif ort is None:
        advice.append(f"no engine library is installed, so no bundle can run: {pip_install(wanted)}")
    elif ort["problem"] is not None:
        again = pip_install(wanted, options="--force-reinstall")
        advice.append(f"onnxruntime does not import ({ort['problem']}): {again}")
    elif has_gpu and "CUDAExecutionProvider" not in ort["providers"]:
        swap = f"pip uninstall -y onnxruntime && {pip_install(wanted)}"
        advice.append(f"a GPU is here, and this onnxruntime cannot use it: {swap}")
    elif not has_gpu and "CUDAExecutionProvider" in ort["providers"]:
        advice.append("onnxruntime-gpu is installed, and no NVIDIA driver shows a GPU: bundles run on the CPU")
    for name, why in report["not_starting"].items():
        remedy = f": {pip_install(ONNXRUNTIME_GPU)}" if name == "CUDAExecutionProvider" else ""
        advice.append(f"{name} is installed and does not start ({why}){remedy}")
    for plugin in report["plugins"]:
        if plugin["problem"] is not None:
            again = pip_install(plugin["name"], options="--force-reinstall")
            advice.append(f"{plugin['name']} does not work ({plugin['problem']}): {again}")
    if report["openvino"] is not None and report["openvino"]["problem"] is not None:
        again = pip_install("openvino", options="--force-reinstall")
        advice.append(f"openvino does not work ({report['openvino']['problem']}): {again}")
    if not has_gpu:
        packages = pip_install(*needed("openvino"))
        advice += [
            f"this CPU computes in {name}, which bundles in {name} need OpenVINO for: {packages}"
            for name in _lacking(report)
        ]
    if has_gpu and "cuda-core" not in report["engines"]:
        here = [name for name in report["engines"] if name.startswith("tensorrt")]
        for extra in sorted({"tensorrt-rtx" if name.startswith("tensorrt-rtx") else "tensorrt" for name in here}):
            advice.append(f"{extra} needs cuda-core to run engines: {pip_install(*needed('cuda'))}")
    absent = [name for name in _OPTIONAL if report["libraries"][name] is None]
    advice += [f"{name} is not installed: {pip_install(name)}" for name in absent]
    for name, (extra, command) in _OF_COMMANDS.items():
        if report["libraries"][name] is None:
            advice.append(f"{name} is not installed; for `{command}`: {pip_install(*needed(extra))}")
    if report["coda-deploy"] is None:
        advice.append(
            f"coda-deploy is not installed; to train, import, export or run the demo, {how_to_install('coda-deploy')}"
        )
    return advice


def _lacking(report: dict[str, Any]) -> list[str]:
    """Return the precisions that the processor has instructions for, nothing here runs, and OpenVINO would."""
    # Of Arm's processors OpenVINO uses other types.
    if report["openvino"] is not None or report["cpu"]["machine"].lower() not in ("x86_64", "amd64"):
        return []
    if "onnxruntime-openvino" in report["engines"]:
        return []
    return [
        name
        for name, found in report["precisions"].items()
        if found["instructions"] and not found["by"] and not precision_of(name).onnxruntime_cpu
    ]
