from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from coda_runtime import diagnose as module
from coda_runtime.backends.onnxruntime.plugins import Plugin
from coda_runtime.backends.onnxruntime.starting import reason, why_not
from coda_runtime.cli.doctor import _rows
from coda_runtime.diagnose import diagnose
from coda_runtime.machine.processors import describe_cpu
from coda_runtime.requirements import how_to_install, needed, pip_install


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    """What is told of this machine, which takes processes to find out; not to be changed."""
    return diagnose()


def test_it_describes_this_machine(here: dict[str, Any]) -> None:
    report = json.loads(json.dumps(here, allow_nan=False))
    assert report["cpu"]["cores"] >= 1
    assert "CPUExecutionProvider" in report["onnxruntime"]["providers"]
    assert report["numpy"]
    assert isinstance(report["advice"], list)


def _report(providers: list[str] | None, gpus: int, **changes: Any) -> dict[str, Any]:
    engine = None if providers is None else {"version": "1", "providers": providers, "problem": None}
    libraries = dict.fromkeys(("pillow", "click", "rich", "huggingface_hub", "kserve", "ray"), "1")
    report = {"onnxruntime": engine, "nvidia": {"devices": gpus}, "libraries": libraries, "coda-deploy": "1"}
    report |= {"plugins": [], "engines": {}, "cpu": {"machine": "x86_64", "vendor": None, "flags": ["avx2"]}}
    report |= {"openvino": None, "not_starting": {}, **changes}
    return {**report, "precisions": module._precisions(report)}


BF16 = {"machine": "x86_64", "vendor": "GenuineIntel", "flags": ["avx512_bf16", "amx_bf16"]}
OPENVINO = {
    "name": "onnxruntime-ep-openvino",
    "providers": ["OpenVINOExecutionProvider"],
    "devices": ["CPU"],
    "problem": None,
}
NATIVE = {"capabilities": ["FP32", "BF16", "INT8"], "exact_integers": True, "problem": None}


@pytest.mark.parametrize(
    ("report", "conflict", "match"),
    [
        (_report(["CPUExecutionProvider"], 0), False, None),
        (_report(["CUDAExecutionProvider", "CPUExecutionProvider"], 1), False, None),
        (_report(None, 0), False, 'pip install "onnxruntime>='),
        (_report(None, 1), False, 'pip install "onnxruntime-gpu[cuda,cudnn]>='),
        (_report(["CPUExecutionProvider"], 1), True, "both installed"),
        (_report(["CPUExecutionProvider"], 1), False, "a GPU is here"),
        (_report(["CUDAExecutionProvider"], 0), False, "no NVIDIA driver"),
        (
            _report(["CUDAExecutionProvider"], 1, not_starting={"CUDAExecutionProvider": "no libcudnn.so.9"}),
            False,
            r"CUDAExecutionProvider is installed and does not start (no libcudnn.so.9): pip install "
            '"onnxruntime-gpu[cuda,cudnn]>=',
        ),
        (
            _report(["OpenVINOExecutionProvider"], 0, not_starting={"OpenVINOExecutionProvider": "no"}),
            False,
            "OpenVINOExecutionProvider is installed and does not start (no)",
        ),
        (_report(["CPUExecutionProvider"], 0, **{"coda-deploy": None}), False, how_to_install("coda-deploy")),
        (_report([], 0, onnxruntime={"problem": "bad DLL", "providers": []}), False, "bad DLL"),
        (_report(["CPUExecutionProvider"], 0, cpu=BF16), False, "bf16 need OpenVINO for: pip install"),
        (_report(["CPUExecutionProvider"], 0, cpu={**BF16, "vendor": "AuthenticAMD"}), False, '"openvino>='),
        (_report(["CPUExecutionProvider"], 0, cpu=BF16, openvino=NATIVE), False, None),
        (
            _report(["CPUExecutionProvider"], 0, openvino={**NATIVE, "problem": "it does not load: no such symbol"}),
            False,
            'openvino does not work (it does not load: no such symbol): pip install --force-reinstall "openvino>=',
        ),
        (_report(["CPUExecutionProvider"], 0, cpu={**BF16, "machine": "aarch64", "vendor": None}), False, None),
        (_report(["CPUExecutionProvider"], 0, cpu=BF16, plugins=[OPENVINO]), False, None),
        (_report(["CPUExecutionProvider"], 0, cpu=BF16, engines={"onnxruntime-openvino": "1"}), False, None),
        (_report(["CUDAExecutionProvider"], 1, cpu=BF16), False, None),
        (
            _report(["CPUExecutionProvider"], 0, plugins=[{**OPENVINO, "problem": "no such symbol"}]),
            False,
            "onnxruntime-ep-openvino does not work (no such symbol): pip install --force-reinstall",
        ),
        (
            _report(["CUDAExecutionProvider"], 1, engines={"tensorrt": "11"}),
            False,
            'needs cuda-core to run engines: pip install "cuda-core>=',
        ),
        (
            _report(["CUDAExecutionProvider"], 1, engines={"tensorrt-rtx-cu13": "1", "tensorrt-rtx": "1"}),
            False,
            'tensorrt-rtx needs cuda-core to run engines: pip install "cuda-core>=',
        ),
        (_report(["CUDAExecutionProvider"], 1, engines={"tensorrt": "11", "cuda-core": "1"}), False, None),
    ],
)
def test_advice(monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], conflict: bool, match: str | None) -> None:
    monkeypatch.setattr(module, "onnxruntime_conflict", lambda: conflict)
    advice = module._advise(report)
    if match is None:
        assert advice == []
    else:
        assert len(advice) == 1
        assert match in advice[0]


def test_missing_libraries_get_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onnxruntime_conflict", lambda: False)
    report = _report(["CPUExecutionProvider"], 0)
    report["libraries"] |= {"pillow": None, "kserve": None}
    assert module._advise(report) == [
        f"pillow is not installed: {pip_install('pillow')}",
        f"kserve is not installed; for `coda serve`: {pip_install(*needed('serve'))}",
    ]


def test_plugins_are_asked_in_a_process_that_may_die(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin("onnxruntime-ep-foo", "0.5", "onnxruntime_ep_foo")
    monkeypatch.setattr(module, "installed_plugins", lambda: [plugin])
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    (entry,) = module._plugins()
    assert (entry["name"], entry["version"], entry["devices"]) == ("onnxruntime-ep-foo", "0.5", [])
    assert "does not load" in entry["problem"]
    monkeypatch.setattr(module, "installed_plugins", list)
    assert module._plugins() == []


def test_providers_are_started_in_a_process_that_may_die(here: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    report = _report(["CPUExecutionProvider", "AzureExecutionProvider", "CUDAExecutionProvider"], 0)
    assert module._not_starting(report) == {}, "without a GPU there is nothing to start"
    report = _report(["CPUExecutionProvider", "NotExecutionProvider"], 0)
    assert module._not_starting(report) == {"NotExecutionProvider": "it does not say why"}
    rows = dict(_rows({**here, "onnxruntime": report["onnxruntime"], "not_starting": {"NotExecutionProvider": "no"}}))
    assert rows["providers"] == "CPUExecutionProvider, NotExecutionProvider (does not start)"
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    assert "/bin/false" in module._not_starting(report)["NotExecutionProvider"]
    assert module._not_starting(_report(None, 1)) == {}


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (
            "a line\n\x1b[1;31m2026-11-27 [E:onnxruntime:Default, provider_bridge_ort.cc:2359 TryGetProviderInfo_CUDA] "
            "/a.cc:1 what() [ONNXRuntimeError] : 1 : FAIL : Failed to load library /x/libonnxruntime_providers_cuda.so "
            "with error: libcublasLt.so.12: cannot open shared object file: No such file or directory\n\x1b[m\n"
            "2026-11-27 [E:onnxruntime] another error",
            "libcublasLt.so.12: cannot open shared object file: No such file or directory",
        ),
        ("a line\nError 35: the driver is too old", "Error 35: the driver is too old"),
        ("nothing of use", "it does not say why"),
    ],
)
def test_the_reason_is_what_is_missing(log: str, why: str) -> None:
    assert reason(log) == why


def test_what_starts(capfd: pytest.CaptureFixture[str]) -> None:
    assert why_not("CPUExecutionProvider") is None
    sys.stderr.write("seen\n")
    assert capfd.readouterr().err.endswith("seen\n"), "stderr is there again"


def test_the_openvino_plugin_and_its_devices_are_shown(
    here: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime_ep_openvino", reason="onnxruntime-ep-openvino is not installed")
    # A module of that name in the working directory is not what gets imported.
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    (entry,) = [plugin for plugin in module._plugins() if plugin["name"] == "onnxruntime-ep-openvino"]
    assert entry["problem"] is None
    assert entry["providers"] == ["OpenVINOExecutionProvider"]
    row = str(dict(_rows({**here, "plugins": [entry]}))["onnxruntime-ep-openvino"])
    shown = ", ".join(entry["devices"]) or "no device here"
    assert row == f"{entry['version']}: OpenVINOExecutionProvider, {shown}"
    vendor = describe_cpu()["vendor"]  # it takes the hardware of Intel only
    assert vendor is None or any(d.startswith("CPU") for d in entry["devices"]) == (vendor == "GenuineIntel")


def test_a_plugin_without_a_device_is_no_reason_to_install_anything(
    here: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onnxruntime_conflict", lambda: False)
    idle = {**OPENVINO, "version": "1.8.1", "devices": []}
    report = _report(["CPUExecutionProvider"], 0, cpu={**BF16, "vendor": "AuthenticAMD"}, plugins=[idle])
    (advice,) = module._advise(report)
    assert '"openvino>=' in advice
    assert module._advise({**report, "openvino": NATIVE, "precisions": {}}) == []
    rows = dict(_rows({**here, "plugins": [idle]}))
    assert rows["onnxruntime-ep-openvino"] == "1.8.1: OpenVINOExecutionProvider, no device here"


def test_what_the_processor_has_for_low_precisions_is_told(here: dict[str, Any]) -> None:
    def rows(**changes: Any) -> dict[str, object]:
        report = _report(["CPUExecutionProvider"], 0, **changes)
        return dict(_rows({**here, **{name: report[name] for name in ("openvino", "precisions")}}))

    with_all = {**BF16, "flags": [*BF16["flags"], "avx512_vnni"]}
    assert rows(cpu=BF16)["bf16"] == "amx_bf16 avx512_bf16, by nothing that is installed"
    told = rows(cpu=with_all, openvino=NATIVE, plugins=[OPENVINO])
    assert told["bf16"] == "amx_bf16 avx512_bf16, by onnxruntime-ep-openvino, openvino"
    assert told["int8"] == "avx512_vnni, by onnxruntime, openvino"
    assert rows()["bf16"] == "this processor has no instructions for it: slower than fp32, or not at all"
    assert "sums of bytes overflow" in str(rows(openvino={**NATIVE, "exact_integers": False})["int8"])
    unknown = {"machine": "arm64", "vendor": None, "flags": []}
    assert rows(cpu=unknown)["int8"] == "by onnxruntime; this system does not tell what the processor has for it"


def test_openvino_is_asked_in_a_process_that_may_die(here: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    found = module._openvino()
    assert found is not None
    assert (found["problem"], "INT8" in found["capabilities"]) == (None, True)
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    broken = module._openvino()
    assert broken is not None
    assert "does not load" in str(dict(_rows({**here, "openvino": broken}))["openvino"])
    monkeypatch.setattr(module.openvino, "missing", lambda: LookupError())
    assert module._openvino() is None
