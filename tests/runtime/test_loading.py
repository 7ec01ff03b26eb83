"""Which artifact and backend a part gets; the GPU is a stand-in that runs ONNX files under the name of an engine."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime import BackendError, DeviceError, EngineMismatchError, load, loading
from coda_runtime.backends import LoadOptions, Session, registry
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.errors import ArtifactError, CodaError
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.format.manifest import Artifact
from tests.runtime import tiny

MEASURED = {"tensorrt:cuda:0": {"step_agreement": 1.0, "images": 8}}
UNMEASURED = {"tensorrt:cuda": {"step_agreement": None, "reason": "no GPU where it was built"}}


class Engines:
    """Runs "engines", which are copies of the ONNX files."""

    def __init__(self, name: str, rejected: CodaError | None = None) -> None:
        self.name, self.formats, self.precisions, self.rejected = name, (name,), None, rejected

    def missing(self) -> None:
        return None

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        return self.rejected

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        session = OnnxRuntimeBackend().load(bundle, dataclasses.replace(artifact, format="onnx"), LoadOptions("cpu"))
        session.device = "cuda:0"
        batch = artifact.batch

        class Limited:
            device = "cuda:0"

            def run(self, array: Any) -> Any:
                return session.run(array)

            def close(self) -> None:
                session.close()

        limited: Any = Limited()
        limited.batch = batch
        return limited  # type: ignore[no-any-return]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Engines]:
    """Stand-ins for TensorRT and for the quantizer's kernels."""
    made = {"tensorrt": Engines("tensorrt"), "cuda": Engines("ptx")}
    made["cuda"].name = "cuda"
    entries = dict(registry._ENTRIES)
    for name, backend in made.items():
        entries[name] = dataclasses.replace(entries[name], factory=lambda backend=backend: backend)
    monkeypatch.setattr(registry, "_ENTRIES", entries)
    return made


def bundle(sealed: Path, folder: Path, **engines: dict[str, Any]) -> Path:
    """The tiny bundle with engines by part: {"parity": ..., "batch": ..., "format": ...}."""
    shutil.copytree(sealed, folder)
    opened = Bundle.open(folder)
    added = []
    for part, settings in engines.items():
        (source,) = opened.manifest.find(part, format="onnx")
        file = f"{part}.engine"
        shutil.copy(folder / source.file, folder / file)
        settings = {"format": "tensorrt", "parity": MEASURED, "batch": (1, 2, 4), "engine": {"library": "x"}} | settings
        added.append(dataclasses.replace(source, file=file, **settings))
    seal(folder, dataclasses.replace(opened.manifest, artifacts=(*opened.manifest.artifacts, *added)))
    return folder


def everywhere(**settings: Any) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(("encoder", "quantizer", "decoder"), settings)


@pytest.mark.usefixtures("gpu")
def test_a_measured_engine_goes_first(sealed: Path, tmp_path: Path) -> None:
    folder = bundle(sealed, tmp_path / "b", **everywhere())
    with load(folder) as tok, load(sealed) as plain:
        assert {a.backend for a in tok.artifacts} == {"tensorrt"}
        assert all(not a.passed_over for a in tok.artifacts)
        np.testing.assert_array_equal(tok.encode(tiny.photos(6)), plain.encode(tiny.photos(6)))


@pytest.mark.usefixtures("gpu")
def test_an_engine_that_was_never_measured_runs_only_when_it_is_asked_for(sealed: Path, tmp_path: Path) -> None:
    folder = bundle(sealed, tmp_path / "b", **everywhere(parity=UNMEASURED))
    with load(folder) as tok:
        assert {a.backend for a in tok.artifacts} == {"onnxruntime"}
        for artifact in tok.artifacts:
            (why,) = artifact.passed_over
            assert "was never measured" in why
            assert f"coda verify {folder} --parity --record" in why
            assert 'backend="tensorrt"' in why
    with load(folder, backend="tensorrt") as tok:
        assert {a.backend for a in tok.artifacts} == {"tensorrt"}


def test_a_rejected_engine_is_skipped_by_auto_and_an_error_by_name(
    sealed: Path, tmp_path: Path, gpu: dict[str, Engines]
) -> None:
    folder = bundle(sealed, tmp_path / "b", **everywhere())
    gpu["tensorrt"].rejected = EngineMismatchError("it was built for sm90, and this GPU is sm89")
    with load(folder) as tok:
        assert {a.device for a in tok.artifacts} == {"cpu"}
        assert {a.passed_over for a in tok.artifacts} == {("it was built for sm90, and this GPU is sm89",)}
    with pytest.raises(EngineMismatchError, match="built for sm90"):
        load(folder, backend="tensorrt")


def test_an_idle_gpu_is_reported(
    sealed: Path, tmp_path: Path, gpu: dict[str, Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle(sealed, tmp_path / "b", **everywhere())
    gpu["tensorrt"].rejected = EngineMismatchError("it was built for sm90")
    monkeypatch.setattr(loading, "count_cuda_devices", lambda: 1)
    with pytest.warns(RuntimeWarning, match="the encoder runs on cpu, although there is a GPU: it was built for sm90"):
        load(folder).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(sealed).close()
        load(folder, device="cpu").close()


def test_an_error_says_what_was_skipped(sealed: Path, tmp_path: Path, gpu: dict[str, Engines]) -> None:
    """Without it the user of device="cuda" would be sent to another onnxruntime, and not to the engine."""
    folder = bundle(sealed, tmp_path / "b", **everywhere())
    gpu["tensorrt"].rejected = EngineMismatchError("it was built for sm90")
    with pytest.raises(DeviceError, match=r"CUDAExecutionProvider.*\(skipped before: it was built for sm90\)"):
        load(folder, device="cuda")


@pytest.mark.usefixtures("gpu")
def test_the_quantizer_s_kernels_leave_the_other_parts_to_auto(sealed: Path, tmp_path: Path) -> None:
    ptx = {"format": "ptx", "batch": None, "parity": UNMEASURED}
    folder = bundle(sealed, tmp_path / "b", encoder={}, quantizer=ptx)
    with load(folder) as tok:
        assert [a.backend for a in tok.artifacts] == ["tensorrt", "onnxruntime", "onnxruntime"]
    with load(folder, backend="cuda") as tok, load(sealed) as plain:
        assert [a.backend for a in tok.artifacts] == ["tensorrt", "cuda", "onnxruntime"]
        np.testing.assert_array_equal(tok.encode(tiny.photos(3)), plain.encode(tiny.photos(3)))


def test_a_bundle_without_kernels(sealed: Path) -> None:
    with pytest.raises(BackendError, match=r"quantizer in fp32 only as onnx, which cuda cannot load; .*--engine ptx"):
        load(sealed, backend="cuda")


@pytest.mark.usefixtures("gpu")
def test_engines_without_a_batch_in_common(sealed: Path, tmp_path: Path) -> None:
    folder = bundle(sealed, tmp_path / "b", encoder={"batch": (1, 4, 8)}, quantizer={"batch": (16, 32, 64)})
    told = "the encoder takes batches from 1 to 8, the quantizer takes batches from 16 to 64; build them together"
    with pytest.raises(ArtifactError, match=told):
        load(folder)
