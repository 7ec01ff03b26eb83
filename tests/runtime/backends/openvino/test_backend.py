"""The backend openvino, on real graphs: what it computes in, who may call it, what it refuses, what it leaves."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
from coda_runtime import ArtifactError, BackendError, CodaError, DeviceError, DeviceMemoryError, InputError
from coda_runtime.backends import LoadOptions, get_backend
from coda_runtime.backends.onnxruntime import plugins
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.backends.openvino import backend as module
from coda_runtime.backends.openvino import executed, library
from coda_runtime.backends.openvino.backend import OpenVinoBackend
from coda_runtime.backends.openvino.session import OpenVinoSession
from coda_runtime.cli import app
from coda_runtime.errors import MissingDependencyError
from tests.runtime import tiny
from tests.runtime.backends.onnxruntime import graphs

pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture
def bf16() -> None:
    """For tests that compute in bf16."""
    if "BF16" not in library.capabilities():
        pytest.skip("this processor does not compute in bf16")


def load(folder: Path, precision: str = "fp32", **options: Any) -> OpenVinoSession:
    bundle, artifact = graphs.write_convolutions(folder, precision)
    return OpenVinoBackend().load(bundle, artifact, LoadOptions(backend="openvino", **options))


def error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture
def expected(tmp_path: Path) -> npt.NDArray[Any]:
    bundle, artifact = graphs.write_convolutions(tmp_path, "fp32")
    return OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cpu")).run(graphs.images())


def test_float32_is_float32(tmp_path: Path, expected: npt.NDArray[Any]) -> None:
    assert error(load(tmp_path).run(graphs.images()), expected) < 1e-5


@pytest.mark.usefixtures("bf16")
def test_bf16_is_bf16(tmp_path: Path, expected: npt.NDArray[Any]) -> None:
    assert 1e-4 < error(load(tmp_path, "bf16").run(graphs.images()), expected) < 2e-2


@pytest.mark.usefixtures("bf16")
def test_what_is_computed_in_another_type_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself OpenVINO computes float32 in bf16: then nothing loads."""
    settings = module._settings

    def leave_it_to_openvino(*given: Any) -> dict[str, Any]:
        return {name: value for name, value in settings(*given).items() if name != "INFERENCE_PRECISION_HINT"}

    monkeypatch.setattr(module, "_settings", leave_it_to_openvino)
    with pytest.raises(BackendError, match=r"encoder.fp32.onnx is in fp32, and this openvino .* Convolution in bf16"):
        load(tmp_path)
    monkeypatch.setattr(module, "_settings", lambda *given: {**settings(*given), "INFERENCE_PRECISION_HINT": "f32"})
    bundle, artifact = graphs.write_convolutions(tmp_path, "fp32")
    told = dataclasses.replace(artifact, precision="bf16")
    with pytest.raises(BackendError, match=r"is in bf16, and this openvino .* 0 of 3 convolutions in it"):
        OpenVinoBackend().load(bundle, told, LoadOptions())


def test_bf16_needs_a_processor_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, artifact = graphs.write_convolutions(tmp_path, "bf16")
    monkeypatch.setattr(library, "capabilities", lambda: frozenset({"FP32", "INT8"}))
    with pytest.raises(DeviceError, match=r"encoder.bf16.onnx is in bf16, in which this processor .*precision=.fp32"):
        OpenVinoBackend().load(bundle, artifact, LoadOptions())


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (LoadOptions(providers=["CPUExecutionProvider"]), InputError, "providers are onnxruntime's, and the backend"),
        (LoadOptions("cuda:1"), DeviceError, "runs on the CPU, and device is 'cuda:1'; pass device="),
    ],
)
def test_options_of_others_are_refused(tmp_path: Path, options: LoadOptions, kind: type[CodaError], words: str) -> None:
    bundle, artifact = graphs.write_convolutions(tmp_path, "fp32")
    assert isinstance(OpenVinoBackend().check(bundle, artifact, options), kind)
    with pytest.raises(kind, match=words):
        OpenVinoBackend().load(bundle, artifact, options)


def test_a_quantizer_is_left_to_onnxruntime(sealed: Path, tmp_path: Path) -> None:
    with coda_runtime.load(sealed, backend="openvino") as tok:
        assert [part.backend for part in tok.artifacts] == ["openvino", "onnxruntime", "openvino"]
        assert [part.device for part in tok.artifacts] == ["cpu"] * 3
    bundle, artifact = graphs.write_scan(tmp_path)
    with pytest.raises(BackendError, match=r"quantizer.fp32.onnx searches in a loop.*backend=.onnxruntime"):
        OpenVinoBackend().load(bundle, artifact, LoadOptions())
    encoder = dataclasses.replace(artifact, part="encoder")
    with pytest.raises(ArtifactError, match=r"cannot load .*Scan.*pip install --upgrade \"openvino>=") as caught:
        OpenVinoBackend().load(bundle, encoder, LoadOptions())
    assert "\n" not in str(caught.value)


def test_a_bundle_runs_on_it_as_on_onnxruntime(sealed: Path) -> None:
    pictures = tiny.photos(3)
    with (
        coda_runtime.load(sealed, backend="onnxruntime", device="cpu") as plain,
        coda_runtime.load(sealed, backend="openvino") as tok,
    ):
        ids = tok.encode(pictures)
        np.testing.assert_array_equal(ids, plain.encode(pictures))
        assert np.abs(tok.decode(ids).astype(int) - plain.decode(ids)).max() <= 1


def test_the_command_runs_on_it(sealed: Path, tmp_path: Path) -> None:
    Image.fromarray(tiny.photos(1)[0]).save(tmp_path / "photo.png")
    arguments = ["encode", sealed, tmp_path / "photo.png", "--out", tmp_path / "tokens.npz", "--backend", "openvino"]
    done = CliRunner().invoke(app.cli, [*map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    with coda_runtime.load(sealed, backend="onnxruntime", device="cpu") as plain:
        expected = plain.encode(tiny.photos(1))
    np.testing.assert_array_equal(np.load(tmp_path / "tokens.npz")["ids"], expected)


def test_installing_it_changes_no_choice_but_of_bf16(tiny_bundle: Path) -> None:
    for precision in ("fp32", "fp16"):
        with coda_runtime.load(tiny_bundle, "cpu", precision=precision) as tok:
            assert {part.backend for part in tok.artifacts} == {"onnxruntime"}
    with pytest.raises(BackendError, match=r"fp16\.onnx is in fp16, and openvino runs fp32, bf16"):
        coda_runtime.load(tiny_bundle, backend="openvino", precision="fp16")


@pytest.mark.usefixtures("bf16")
def test_it_runs_bf16_unasked_where_onnxruntime_does_not(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "installed_plugins", list)
    monkeypatch.setattr(plugins, "_registered", {})
    with coda_runtime.load(tiny_bundle, "cpu", precision="bf16") as tok:
        assert [part.backend for part in tok.artifacts] == ["openvino", "onnxruntime", "openvino"]
        assert "which onnxruntime's own CPU provider cannot run" in tok.artifacts[0].passed_over[0]
    with pytest.raises(CodaError, match="onnxruntime's own CPU provider cannot run"):
        coda_runtime.load(tiny_bundle, "cpu", backend="onnxruntime", precision="bf16")


def test_many_callers_share_a_session(tmp_path: Path) -> None:
    session = load(tmp_path, threads=1)
    batches = [tiny.photos(size, seed=size) for size in (1, 2, 3, 1, 4, 2)]
    alone = [session.run(batch) for batch in batches]
    barrier = threading.Barrier(len(batches))

    def many(at: int) -> bool:
        barrier.wait()
        return all(np.array_equal(session.run(batches[at]), alone[at]) for _ in range(10))

    with ThreadPoolExecutor(len(batches)) as pool:
        assert all(pool.map(many, range(len(batches))))


def test_nothing_of_a_call_is_kept(tmp_path: Path) -> None:
    session, batch = load(tmp_path), graphs.images()
    first = session.run(batch)
    kept, references = first.copy(), sys.getrefcount(batch)
    second = session.run(255 - batch)
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    assert first.flags.owndata or first.base is None or not np.shares_memory(first, second)
    session.run(batch)
    assert sys.getrefcount(batch) == references


@pytest.mark.parametrize(
    "changed",
    [lambda batch: batch[:, ::-1], lambda batch: np.asfortranarray(batch), lambda batch: read_only(batch)],
    ids=["strided", "fortran", "read-only"],
)
def test_arrays_of_any_layout_are_taken(tmp_path: Path, changed: Callable[[Any], Any]) -> None:
    session, batch = load(tmp_path), changed(graphs.images())
    np.testing.assert_array_equal(session.run(batch), session.run(np.array(batch, order="C")))


def read_only(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    copy = batch.copy()
    copy.flags.writeable = False
    return copy


def test_a_run_that_fails_gives_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    session = load(tmp_path)
    for wrong in (np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 5, 5, 3), np.uint8)):
        with pytest.raises(BackendError, match=r"openvino failed on \w+ \[1, .* \(.*input tensor") as caught:
            session.run(wrong)
        assert "\n" not in str(caught.value)
        assert ".cpp" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert session.run(graphs.images()).shape == (2, 16, 32, 32)


def test_memory_that_ran_out_is_told_apart() -> None:
    told = library.run_error(RuntimeError("Exception from src/x.cpp:1:\nstd::bad_alloc"), "uint8 [9, 1]")
    assert isinstance(told, DeviceMemoryError)
    assert str(told) == "there is no memory left for uint8 [9, 1] (std::bad_alloc); pass fewer images at a time"


def test_a_smaller_batch_runs_after_memory_ran_out(tmp_path: Path) -> None:
    """What OpenVINO has compiled asks for as much memory again from then on: it is compiled anew."""
    code = """
import resource
import numpy as np
from coda_runtime import DeviceMemoryError
session = OpenVinoBackend().load(bundle, artifact, LoadOptions(threads=1))
expected = session.run(batch)
large = np.zeros((3000, 32, 32, 3), np.uint8)
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 200 * 2**20,) * 2)
try:
    session.run(large)
except DeviceMemoryError as error:
    assert "pass fewer images at a time" in str(error), error
else:
    raise SystemExit("it had the memory")
np.testing.assert_array_equal(session.run(batch), expected)
"""
    done = in_a_process(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_openvino_says_is_told_without_its_places() -> None:
    said = (
        "Exception from src/inference/src/cpp/infer_request.cpp:224:\n[CPU] Concat node with name 'node_stack' Check "
        "'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\nFailed to allocate 39321600 bytes of memory\n\n"
    )
    told = "[CPU] Concat node with name 'node_stack' Failed to allocate 39321600 bytes of memory"
    assert library.cause(RuntimeError(said)) == told
    assert library.is_out_of_memory(RuntimeError(said))


def test_threads_reach_it(tmp_path: Path) -> None:
    session, batch = load(tmp_path, threads=1), graphs.images(64)
    session.run(batch)
    wall, used = time.perf_counter(), time.process_time()
    for _ in range(10):
        session.run(batch)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    assert used < 1.25 * wall + 0.02, "more than one core was at work"


@pytest.mark.parametrize(
    ("asked", "quota", "processors", "wanted"),
    [
        (None, None, 8, {"NUM_STREAMS": 1}),
        (None, 2, 8, {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 2}),
        (2, None, 8, {"NUM_STREAMS": 4, "INFERENCE_NUM_THREADS": 8}),
        (3, None, 8, {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 6}),
        (16, None, 8, {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 16}),
    ],
)
def test_callers_have_threads_of_their_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    quota: int | None,
    processors: int,
    wanted: dict[str, int],
) -> None:
    monkeypatch.setattr(module, "default_threads", lambda: quota)
    monkeypatch.setattr(module, "usable_count", lambda: processors)
    _, artifact = graphs.write_convolutions(tmp_path, "fp32")
    settings = module._settings(artifact, LoadOptions(threads=asked))
    assert settings == {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False, **wanted}


def test_close_frees(tmp_path: Path) -> None:
    session = load(tmp_path)
    session.run(graphs.images())
    session.close()
    with pytest.raises(BackendError, match="this session is closed; load the bundle again"):
        session.run(graphs.images())


@pytest.mark.parametrize("content", ["", "this is no ONNX file"])
def test_files_that_do_not_load_give_one_line(tmp_path: Path, content: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "encoder.fp32.onnx").write_text(content)
    artifact = tiny.describe(tmp_path, "encoder.fp32.onnx")
    with pytest.raises(ArtifactError, match="export the bundle again") as caught:
        OpenVinoBackend().load(tiny.alone(tmp_path, artifact), artifact, LoadOptions())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_missing_package_is_named(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs the package openvino.*pip install .*\"openvino>=") as told:
        coda_runtime.load(sealed, backend="openvino")
    assert told.value.extra == "openvino"
    # What an old openvino-dev leaves behind: a folder without a package.
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    assert get_backend("openvino").missing() is not None


def test_a_broken_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr(library.importlib, "import_module", broken)
    with pytest.raises(BackendError, match=r"does not import \(libopenvino.so: .*pip install --force-reinstall"):
        library.load_library()


def in_a_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code that has `folder`, a graph's `bundle` and `artifact`, in a process with folders of its own."""
    graphs.write_convolutions(folder, "fp32")
    head = f"""
import sys
from pathlib import Path
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.openvino import library
from coda_runtime.backends.openvino.backend import OpenVinoBackend
from tests.runtime import tiny
folder = Path({str(folder)!r})
artifact = tiny.describe(folder, "encoder.fp32.onnx")
bundle = tiny.alone(folder, artifact)
batch = tiny.photos(2)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[4]), *sys.path])}
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "work"):
        (folder / name).mkdir()
        environment[name] = str(folder / name)
    return subprocess.run(
        [sys.executable, "-c", head + code],
        cwd=folder / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_its_telemetry_does_not_start_and_no_file_is_left(tmp_path: Path) -> None:
    """Importing openvino sends an event to Intel, but for the part that sends it."""
    pytest.importorskip("openvino_telemetry", reason="openvino-telemetry is not installed")
    code = """
import socket
def refuse(*given, **options):
    raise SystemExit("something reached for the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
OpenVinoBackend().load(bundle, artifact, LoadOptions()).run(batch)
assert not [name for name in sys.modules if "telemetry" in name], sys.modules.keys()
"""
    done = in_a_process(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folders = [tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "work")]
    left = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert [file for file in left if file.parent.name != "coda-runtime"] == []


def test_its_converter_is_hidden_during_the_import_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    seen: list[object] = []
    monkeypatch.setattr(library.importlib, "import_module", lambda _: seen.append(sys.modules["openvino.tools.ovc"]))
    library.load_library()
    assert seen == [None]
    assert "openvino.tools.ovc" not in sys.modules


def test_a_fork_is_told_and_does_not_hang(tmp_path: Path) -> None:
    code = """
import multiprocessing, signal
from coda_runtime import BackendError
session = OpenVinoBackend().load(bundle, artifact, LoadOptions())
session.run(batch)
def child(queue):
    signal.alarm(30)
    problem = OpenVinoBackend().check(bundle, artifact, LoadOptions())
    try:
        OpenVinoBackend().load(bundle, artifact, LoadOptions())
    except BackendError as error:
        queue.put((str(problem), str(error)))
forked = multiprocessing.get_context("fork")
queue = forked.SimpleQueue()
process = forked.Process(target=child, args=(queue,))
process.start()
checked, loaded = queue.get()
process.join(30)
assert process.exitcode == 0, process.exitcode
assert checked == loaded and "start processes by spawn" in loaded, loaded
session.run(batch)
"""
    done = in_a_process(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_child_that_is_forked_before_runs(tmp_path: Path) -> None:
    code = """
import multiprocessing
def child(queue):
    queue.put(OpenVinoBackend().load(bundle, artifact, LoadOptions()).run(batch).shape)
library.load_library()
forked = multiprocessing.get_context("fork")
queue = forked.SimpleQueue()
process = forked.Process(target=child, args=(queue,))
process.start()
process.join(60)
assert process.exitcode == 0, process.exitcode
assert queue.get() == (2, 16, 32, 32)
"""
    done = in_a_process(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_layers_are_read_from_what_was_compiled(tmp_path: Path) -> None:
    session = load(tmp_path)
    kinds = [layer for layer in executed.layers(session.compiled) if layer.is_convolution]
    assert [str(layer) for layer in kinds] == ["Convolution in f32"] * 3
