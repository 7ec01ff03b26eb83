"""The backends of engines: what they refuse and what they load."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.tensorrt import backend as tensorrt_backend
from coda_runtime.backends.tensorrt import messages as tensorrt_messages
from coda_runtime.backends.tensorrt.backend import TensorRTBackend, TensorRTRTXBackend
from coda_runtime.build.log import BuildLog
from coda_runtime.build.options import BuildOptions
from coda_runtime.errors import (
    ArtifactError,
    BackendError,
    CodaError,
    DeviceError,
    DeviceMemoryError,
    EngineMismatchError,
    InputError,
    MissingDependencyError,
)
from coda_runtime.format import engine_key as key
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.profiles import Batch
from coda_runtime.machine.devices import count_cuda_devices
from tests.runtime import tiny
from tests.runtime.backends import engines
from tests.runtime.backends.cuda import fake_trt
from tests.runtime.backends.cuda.driver.controls import Driver

VERSION = "11.4.0.106"


def engine_bundle(folder: Path, source: Path) -> Bundle:
    """The bundle `source`, with engines in `folder`."""
    return Bundle(folder, Bundle.open(source).manifest, b"")


class Machine:
    """The two GPUs of the stand-in for the driver and the fake library, which a test takes parts from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rtx: bool) -> None:
        self.trt = fake_trt.make(rtx=rtx, version=VERSION)
        self.backend = TensorRTRTXBackend() if rtx else TensorRTBackend()
        library = SimpleNamespace(module=self.trt)
        for name, value in {
            "module_name": lambda name: "tensorrt",
            "missing": lambda extra: None,
            "find_library": lambda name: library,
            "compute_capability": lambda index: ("sm89", "sm120")[index],
            "gpu_name": lambda index: "NVIDIA L4",
        }.items():
            monkeypatch.setattr(tensorrt_backend, name, value)

    def artifact(self, folder: Path, bundle: Path, part: str = "decoder", **told: Any) -> Artifact:
        """An engine that fits this machine."""
        artifact = engines.write(folder, bundle, part, (1, 2, 4), **told)
        made_of = key.EngineKey.made_here(
            library=self.backend.name,
            library_version=VERSION,
            targets=("sm89",),
            onnx=tiny.describe(bundle, engines.FILES[part]),
            flags=BuildOptions().flags(),
            gpu="NVIDIA L4",
            driver=None,
        ).to_json()
        return dataclasses.replace(artifact, format=self.backend.name, engine=made_of)


@pytest.fixture(params=[False, True], ids=["tensorrt", "tensorrt-rtx"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Machine:
    return Machine(monkeypatch, request.param)


def test_names() -> None:
    assert (TensorRTBackend.name, TensorRTBackend.formats) == ("tensorrt", ("tensorrt",))
    assert (TensorRTRTXBackend.name, TensorRTRTXBackend.formats) == ("tensorrt-rtx", ("tensorrt-rtx",))


class TestLoad:
    def test_an_engine_runs(self, machine: Machine, tmp_path: Path, sealed: Path) -> None:
        artifact = machine.artifact(tmp_path, sealed)
        assert machine.backend.check(engine_bundle(tmp_path, sealed), artifact, LoadOptions()) is None
        session = machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions("cuda:0"))
        assert (session.device, session.batch) == ("cuda:0", (1, 2, 4))
        assert session.run(engines.ids(2)).dtype == np.uint8
        assert machine.trt.host_code == [False]
        session.close()

    def test_host_code_only_where_it_is_allowed(self, machine: Machine, tmp_path: Path, sealed: Path) -> None:
        artifact = machine.artifact(tmp_path, sealed)
        assert artifact.engine is not None
        artifact.engine["flags"]["version_compatible"] = True
        rejected = machine.backend.check(engine_bundle(tmp_path, sealed), artifact, LoadOptions())
        assert isinstance(rejected, EngineMismatchError)
        assert "allow_host_code=True" in str(rejected)
        with pytest.raises(EngineMismatchError, match="code for the CPU"):
            machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions())
        machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions(allow_host_code=True)).close()
        assert machine.trt.host_code == [True]

    def test_an_engine_that_does_not_deserialise(self, machine: Machine, tmp_path: Path, sealed: Path) -> None:
        artifact = machine.artifact(tmp_path, sealed, damaged=True)
        text = rf"cannot load .*decoder.engine .*version tag does not match\).*coda build .*{machine.backend.name}"
        with pytest.raises(EngineMismatchError, match=text) as raised:
            machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions())
        assert "\n" not in str(raised.value)
        assert "warning" not in str(raised.value)

    def test_no_memory_for_the_weights(self, machine: Machine, tmp_path: Path, sealed: Path) -> None:
        artifact = machine.artifact(tmp_path, sealed, throws=True)
        with pytest.raises(DeviceMemoryError, match="memory ran out"):
            machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions())

    @pytest.mark.parametrize(
        ("told", "text"),
        [
            ({"tensors": 3}, "1 input and 2 outputs"),
            ({"input": "codes"}, "has codes of int32, and the decoder has ids of int32"),
            ({"profiles": [[1, 2, 4], [8, 8, 8]]}, r"takes batches 1,2,4 8,8,8 .*manifest says 1,2,4\."),
            ({"profiles": [[1, 2, 8]]}, r"takes batches 1,2,8 .*manifest says 1,2,4"),
            ({"fixed": 4}, "only the batch may vary"),
        ],
    )
    def test_an_engine_that_is_not_what_the_manifest_says(
        self, machine: Machine, tmp_path: Path, sealed: Path, told: dict[str, Any], text: str
    ) -> None:
        artifact = machine.artifact(tmp_path, sealed, **told)
        with pytest.raises(ArtifactError, match=text):
            machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions())

    def test_another_part(self, machine: Machine, tmp_path: Path, sealed: Path) -> None:
        artifact = dataclasses.replace(machine.artifact(tmp_path, sealed), part="quantizer")
        assert artifact.engine is not None
        artifact.engine["onnx"]["sha256"] = tiny.describe(sealed, engines.FILES["quantizer"]).sha256
        with pytest.raises(ArtifactError, match="has ids of int32, and the quantizer has latent of float32"):
            machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions())


class TestIncompatibility:
    @pytest.mark.parametrize(
        ("options", "kind", "text"),
        [
            (LoadOptions("cpu"), DeviceError, "on the CPU the ONNX files run$"),
            (LoadOptions(providers=["CPUExecutionProvider"]), InputError, "onnxruntime"),
            (LoadOptions("cuda:1"), EngineMismatchError, "built for sm89, and this GPU is sm120"),
        ],
    )
    def test_options_and_gpu(
        self, machine: Machine, tmp_path: Path, sealed: Path, options: LoadOptions, kind: type[CodaError], text: str
    ) -> None:
        rejected = machine.backend.check(engine_bundle(tmp_path, sealed), machine.artifact(tmp_path, sealed), options)
        assert isinstance(rejected, kind)
        with pytest.raises(kind, match=text):
            raise rejected

    def test_another_version(self, machine: Machine, tmp_path: Path, sealed: Path) -> None:
        machine.trt.__version__ = "11.5.0"
        artifact = machine.artifact(tmp_path, sealed)
        rejected = machine.backend.check(engine_bundle(tmp_path, sealed), artifact, LoadOptions())
        assert "11.5.0 is installed" in str(rejected)

    @pytest.mark.skipif(count_cuda_devices() > 0, reason="there is a GPU")
    def test_no_gpu(self, tmp_path: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt_backend, "module_name", lambda name: "tensorrt")
        monkeypatch.setattr(tensorrt_backend, "missing", lambda extra: None)
        artifact = engines.write(tmp_path, sealed, "decoder", (1, 2, 4))
        rejected = TensorRTBackend().check(engine_bundle(tmp_path, sealed), artifact, LoadOptions())
        assert isinstance(rejected, DeviceError)
        assert str(rejected).endswith('to run on the CPU pass device="cpu"')
        with pytest.raises(DeviceError):
            TensorRTBackend().load(engine_bundle(tmp_path, sealed), artifact, LoadOptions())


class TestLibraries:
    @pytest.mark.parametrize("backend", [TensorRTBackend(), TensorRTRTXBackend()], ids=lambda b: str(b.name))
    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: TensorRTBackend) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
        found = backend.missing()
        assert isinstance(found, MissingDependencyError)
        assert f'pip install "{backend.name}>=' in str(found)
        assert isinstance(backend.check(tiny.alone(tmp_path), _nothing(), LoadOptions()), MissingDependencyError)

    def test_only_cuda_core_is_missing(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(tensorrt_backend, "module_name", lambda name: "tensorrt")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
        found = machine.backend.missing()
        assert found is not None
        assert "cuda-core" in str(found)
        assert found.extra == machine.backend.name

    def test_the_lean_runtime_runs_version_compatible_engines(
        self, machine: Machine, tmp_path: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifact = machine.artifact(tmp_path, sealed)
        lean = fake_trt.make(version=VERSION)
        monkeypatch.setattr(tensorrt_backend, "module_name", lambda name: None)
        monkeypatch.setitem(sys.modules, "tensorrt_lean", lean)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: name == "tensorrt_lean" or None)
        if machine.backend.name != "tensorrt":
            assert machine.backend.missing() is not None
            return
        assert machine.backend.missing() is None
        rejected = machine.backend.check(engine_bundle(tmp_path, sealed), artifact, LoadOptions())
        assert isinstance(rejected, MissingDependencyError)
        assert "lean" in str(rejected)
        assert artifact.engine is not None
        artifact.engine["flags"]["version_compatible"] = True
        machine.backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions(allow_host_code=True)).close()
        assert lean.host_code == [True]
        lean.__version__ = "10.8.0.43"
        rejected = machine.backend.check(engine_bundle(tmp_path, sealed), artifact, LoadOptions(allow_host_code=True))
        assert isinstance(rejected, BackendError)
        assert "TensorRT 10.8.0.43 is installed, and 10.9 or newer is needed" in str(rejected)

    def test_nothing_heavy_is_imported(self) -> None:
        code = (
            "import sys; import coda_runtime.backends.tensorrt.backend as b; b.TensorRTBackend().missing(); "
            "b.TensorRTRTXBackend().missing(); "
            "print([n for n in sys.modules if n.startswith(('cuda.', 'tensorrt', 'torch'))])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() in ("[]", "['cuda.core']") or "bindings" not in done.stdout


class TestMessages:
    def test_a_thread_is_told_its_own_errors(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        messages = tensorrt_messages.Messages(fake_trt.make())
        error = fake_trt.ILogger.Severity.ERROR
        with ThreadPoolExecutor(1) as pool:
            pool.submit(messages.logger.log, error, "theirs").result()
            assert messages.first() == "theirs", "TensorRT has threads of its own"
            messages.logger.log(error, "mine\nmore")
            messages.logger.log(error, "later")
            assert messages.first() == "mine"
            assert pool.submit(messages.first).result() == "theirs"
            messages.clear()
            assert messages.first() == "it does not say why", "what was said before is of another call"
            assert pool.submit(messages.first).result() == "theirs"
            pool.submit(messages.clear).result()
            pool.submit(messages.logger.log, error, "theirs again").result()
        assert messages.first() == "theirs again"

    def test_the_library_keeps_one_logger(self) -> None:
        """TensorRT tells all that it has to say to the first logger of the process."""
        trt = fake_trt.make()
        first, second, build = tensorrt_messages.Messages(trt), tensorrt_messages.Messages(trt), BuildLog(trt)
        assert first.logger is second.logger is build.logger
        trt.Runtime(first.logger)
        trt.complain("it is full")
        assert first.first() == second.first() == build.errors[0] == "it is full"
        assert tensorrt_messages.Messages(fake_trt.make()).logger is not first.logger
        gone = weakref.ref(second)
        del second
        gc.collect()
        assert gone() is None, "it listens no longer than it lives"

    @pytest.mark.parametrize("text", ["CUDA error: out of memory", "OutOfMemory", "CUDA_ERROR_OUT_OF_MEMORY"])
    def test_out_of_memory(self, text: str) -> None:
        messages = tensorrt_messages.Messages(fake_trt.make())
        with pytest.raises(DeviceMemoryError), messages.calls("it failed", "try again"):
            raise RuntimeError(text)
        with (
            pytest.raises(BackendError, match=r"^it failed \(other\); try again$"),
            messages.calls("it failed", "try again"),
        ):
            raise RuntimeError("other")


def _nothing() -> Artifact:
    return Artifact("decoder", "tensorrt", "fp32", "x", "0" * 64, 0)


def test_rtx_takes_the_logger() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    messages = tensorrt_messages.Messages(trt)
    messages.logger.log(trt.ILogger.Severity.WARNING, "not this")
    assert messages.first() == "it does not say why"
    messages.logger.log(trt.ILogger.Severity.ERROR, "this\nand more")
    assert messages.first() == "this"


@pytest.mark.gpu
@pytest.mark.parametrize("profiles", [((1, 2, 4),), ((1, 1, 1), (2, 3, 4))], ids=["one profile", "two profiles"])
@pytest.mark.parametrize("backend", [TensorRTBackend(), TensorRTRTXBackend()], ids=lambda b: str(b.name))
def test_a_real_engine_on_a_gpu(
    tmp_path: Path, sealed: Path, backend: TensorRTBackend, profiles: tuple[Batch, ...]
) -> None:
    """An engine of the tiny decoder, built here, read from a tensor and left as one."""
    from coda_runtime.backends.cuda import compute_capability, gpu_name
    from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

    trt = pytest.importorskip("tensorrt" if backend.name == "tensorrt" else "tensorrt_rtx_bindings")
    torch = pytest.importorskip("torch")
    capability = compute_capability(0)
    if backend.name == "tensorrt-rtx" and capability.upper() not in trt.ComputeCapability.__members__:
        pytest.skip(f"TensorRT-RTX has no {capability}")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse((sealed / engines.FILES["decoder"]).read_bytes())
    config = builder.create_builder_config()
    for batch in profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape("ids", *[(count, tiny.TOKENS) for count in batch])
        config.add_optimization_profile(profile)
    path = tmp_path / "decoder.engine"
    path.write_bytes(bytes(builder.build_serialized_network(network, config)))
    onnx = tiny.describe(sealed, engines.FILES["decoder"])
    made_of = key.EngineKey.made_here(
        library=backend.name,
        library_version=trt.__version__,
        targets=(capability,),
        onnx=onnx,
        flags=BuildOptions().flags(),
        gpu=gpu_name(0),
        driver=None,
    ).to_json()
    artifact = Artifact("decoder", backend.name, "fp32", path.name, "0" * 64, 1, engine=made_of).with_profiles(profiles)
    reference = OnnxRuntimeBackend().load(Bundle.open(sealed), onnx, LoadOptions("cpu"))
    session = backend.load(engine_bundle(tmp_path, sealed), artifact, LoadOptions("cuda:0"))
    side = torch.cuda.Stream()
    for seed in range(12):
        batch = engines.ids(1 + seed % 4, seed)
        expected = reference.run(batch).astype(np.int16)
        assert np.abs(session.run(batch) - expected).max() <= 1
        with torch.cuda.stream(side):
            torch.cuda._sleep(20_000_000)  # the producer is busy while the session is asked
            tensor = torch.zeros(batch.shape, dtype=torch.int32, device="cuda")
            tensor.copy_(torch.from_numpy(batch).pin_memory(), non_blocking=True)
            out = session.run_on_device(tensor)
            del tensor
            taken = torch.from_dlpack(out)
            assert taken.data_ptr() == out.memory.address
            torch.cuda._sleep(20_000_000)  # and the consumer when the array is dropped
            later = taken.to(torch.int16)
            del out, taken
        for other in range(3):
            session.run_on_device(engines.ids(4, 100 + other))
        assert np.abs(later.cpu().numpy() - expected).max() <= 1
    assert {state for states in session.graphs.values() for state in states} == {"recorded"}
    session.close()
