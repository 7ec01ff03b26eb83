"""OpenVINO's plugin, for real: what it computes in, that it takes the whole graph, that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

import coda_runtime
from coda_runtime import ArtifactError, DeviceError, MissingDependencyError
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.onnxruntime import plugins
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.backends.onnxruntime.plugins import OPENVINO
from coda_runtime.backends.onnxruntime.session import OrtSession
from coda_runtime.cli import app
from coda_runtime.diagnose import diagnose
from tests.runtime import tiny
from tests.runtime.backends.onnxruntime import graphs

pytestmark = pytest.mark.usefixtures("openvino_device")

CPU = "CPUExecutionProvider"
PERFORMANCE = '{"CPU": {"EXECUTION_MODE_HINT": "PERFORMANCE"}}'  # OpenVINO's own default


def load(folder: Path, precision: str, *asked: Any, threads: int | None = None) -> OrtSession:
    bundle, artifact = graphs.write_convolutions(folder, precision)
    return OnnxRuntimeBackend().load(bundle, artifact, LoadOptions(providers=asked or None, threads=threads))


def error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture
def expected(tmp_path: Path) -> npt.NDArray[Any]:
    return load(tmp_path, "fp32", CPU).run(graphs.images())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_float32_and_fp16_are_not_computed_in_bf16(tmp_path: Path, expected: npt.NDArray[Any], precision: str) -> None:
    session = load(tmp_path, precision, OPENVINO)
    assert session.device == "openvino:cpu"
    assert error(session.run(graphs.images()), expected) < (1e-5 if precision == "fp32" else 1e-3)


def test_left_to_itself_it_computes_them_in_bf16(tmp_path: Path, expected: npt.NDArray[Any]) -> None:
    """Without this the test above would hold by chance."""
    if not {"amx_bf16", "avx512_bf16"} & set(diagnose()["cpu"]["flags"]):
        pytest.skip("this CPU has no bf16")
    session = load(tmp_path, "fp32", (OPENVINO, {"load_config": PERFORMANCE}))
    assert error(session.run(graphs.images()), expected) > 1e-3


def test_bf16_goes_to_it_by_itself(tmp_path: Path, expected: npt.NDArray[Any]) -> None:
    session = load(tmp_path, "bf16")
    assert session.device == "openvino:cpu"
    assert 1e-4 < error(session.run(graphs.images()), expected) < 2e-2
    assert load(tmp_path, "fp16").device == "cpu"


def test_bf16_without_it_is_rejected_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, artifact = graphs.write_convolutions(tmp_path, "bf16")
    backend = OnnxRuntimeBackend()
    assert backend.check(bundle, artifact, LoadOptions()) is None
    monkeypatch.setattr(plugins, "installed_plugins", list)
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(
        "coda_runtime.backends.onnxruntime.library.load_library",
        lambda: SimpleNamespace(get_available_providers=lambda: [CPU], get_ep_devices=list),
    )
    told = backend.check(bundle, artifact, LoadOptions())
    assert isinstance(told, MissingDependencyError)
    assert told.extra == "openvino-plugin"
    with pytest.raises(MissingDependencyError, match=r'pip install .*"onnxruntime-ep-openvino>='):
        backend.load(bundle, artifact, LoadOptions())


def test_bf16_on_a_provider_that_lacks_it_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"NOT_IMPLEMENTED.*name no provider, and what can run it here is found"):
        load(tmp_path, "bf16", CPU)


def test_a_graph_that_it_takes_in_part_is_an_error(tmp_path: Path) -> None:
    bundle, artifact = graphs.write_partly_taken(tmp_path)
    with pytest.raises(DeviceError, match=r"cannot run all of .*: Det would run on the CPU provider; to allow that"):
        OnnxRuntimeBackend().load(bundle, artifact, LoadOptions(providers=[OPENVINO]))
    session = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions(providers=[OPENVINO, CPU]))
    np.testing.assert_allclose(session.run(np.eye(4, dtype=np.float32)[None]), [1.0])


def test_heavy_operators_on_the_cpu_are_reported(tmp_path: Path) -> None:
    bundle, artifact = graphs.write_partly_taken(tmp_path)
    session = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions(providers=[OPENVINO, CPU]))
    assert session.device == "openvino:cpu+cpu"


def test_a_quantizer_that_it_cannot_load_runs_on_the_cpu_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle, artifact = graphs.write_scan(tmp_path)
    session = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions(providers=[OPENVINO]))
    assert session.device == "cpu"
    np.testing.assert_allclose(session.run(np.ones((3, 4), np.float32))[-1], 3)
    encoder = dataclasses.replace(artifact, part="encoder")
    with pytest.raises(ArtifactError, match=r"cannot load .* on OpenVINOExecutionProvider \("):
        OnnxRuntimeBackend().load(bundle, encoder, LoadOptions(providers=[OPENVINO]))
    assert capfd.readouterr() == ("", "")


def test_a_bad_property_is_reported_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = (OPENVINO, {"load_config": '{"CPU": {"NO_SUCH_PROPERTY": 1}}'})
    with pytest.raises(ArtifactError, match="Unsupported property NO_SUCH_PROPERTY") as caught:
        load(tmp_path, "fp32", bad)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_threads_reach_it(tmp_path: Path) -> None:
    session, batch = load(tmp_path, "fp32", OPENVINO, threads=1), graphs.images(64)
    session.run(batch)
    wall, used = time.perf_counter(), time.process_time()
    for _ in range(10):
        session.run(batch)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    assert used < 1.25 * wall + 0.02, "more than one core was at work"


def test_many_threads_register_it_once_and_share_a_session(tmp_path: Path, expected: npt.NDArray[Any]) -> None:
    code = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from coda_runtime.backends.onnxruntime.library import load_library
from coda_runtime.backends.onnxruntime.plugins import OPENVINO, plugin_devices
assert "onnxruntime_ep_openvino" not in sys.modules
ort, barrier = load_library(), threading.Barrier(8)
def go(_):
    barrier.wait()
    return sorted(device.ep_metadata["ov_device"] for device in plugin_devices(ort, OPENVINO))
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(go, range(8)))
assert all(devices == found[0] == sorted(set(found[0])) for devices in found), found
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    session = load(tmp_path, "fp32", OPENVINO, threads=1)
    with ThreadPoolExecutor(8) as pool:
        for out in pool.map(lambda i: session.run(graphs.images()), range(24)):
            assert error(out, expected) < 1e-5


def test_it_leaves_no_file_behind(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "work")}
    for folder in folders.values():
        folder.mkdir()
    _, artifact = graphs.write_convolutions(tmp_path, "bf16")
    code = f"""
from pathlib import Path
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tests.runtime import tiny
from tests.runtime.backends.onnxruntime import graphs
folder = Path({str(tmp_path)!r})
artifact = tiny.describe(folder, {artifact.file!r})
session = OnnxRuntimeBackend().load(tiny.alone(folder, artifact), artifact, LoadOptions())
session.run(graphs.images())
assert session.device == "openvino:cpu"
"""
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    environment["PYTHONPATH"] = str(Path(__file__).parents[4])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folders["work"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    left = [file for folder in folders.values() for file in folder.rglob("*") if file.is_file()]
    assert left == []


def test_a_bundle_runs_on_it(sealed: Path) -> None:
    pictures = tiny.photos(3)
    with (
        coda_runtime.load(sealed, backend="onnxruntime", device="cpu") as plain,
        coda_runtime.load(sealed, backend="onnxruntime", providers=[OPENVINO]) as tok,
    ):
        assert {part.part: part.device for part in tok.artifacts}["encoder"] == "openvino:cpu"
        ids = tok.encode(pictures)
        np.testing.assert_array_equal(ids, plain.encode(pictures))
        assert np.abs(tok.decode(ids).astype(int) - plain.decode(ids)).max() <= 1


def test_the_command_runs_on_it(sealed: Path, tmp_path: Path) -> None:
    Image.fromarray(tiny.photos(1)[0]).save(tmp_path / "photo.png")
    arguments = ["encode", sealed, tmp_path / "photo.png", "--out", tmp_path / "tokens.npz", "--provider", OPENVINO]
    done = CliRunner().invoke(app.cli, [*map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    with coda_runtime.load(sealed, backend="onnxruntime", device="cpu") as plain:
        expected = plain.encode(tiny.photos(1))
    np.testing.assert_array_equal(np.load(tmp_path / "tokens.npz")["ids"], expected)


def test_its_devices_are_described() -> None:
    found = plugins.describe_plugins(plugins_library())
    (entry,) = [entry for entry in found if entry["name"] == "onnxruntime-ep-openvino"]
    assert entry["problem"] is None
    assert OPENVINO in entry["providers"]
    assert any(device.startswith("CPU") for device in entry["devices"])


def plugins_library() -> Any:
    from coda_runtime.backends.onnxruntime.library import load_library

    return load_library()
