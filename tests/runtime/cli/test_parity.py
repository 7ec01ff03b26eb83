"""`coda verify --parity`, and how parity and engines are shown: never more than was measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from coda_runtime.backends import registry
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.backends.ptx.backend import PtxBackend
from coda_runtime.cli import app
from coda_runtime.cli import verify as verify_module
from coda_runtime.errors import BackendError, DeviceMemoryError, EngineMismatchError, MissingDependencyError
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.manifest import Artifact
from tests.runtime import measurable, tiny
from tests.runtime.parity.fakes import FakeBackend, no_memory

Bare = Callable[..., Callable[..., Any]]
ENGINE = "engines/decoder.fp32.engine"
KEY = {"library": "fake", "library_version": "1.2", "targets": ["sm89", "sm120"], "gpu": "GPU 9", "os": "linux-x86_64"}


def coda(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app.cli, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def report(*arguments: object, code: int = 0) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(coda(*arguments, "--json", code=code).stdout)
    return data


def row(done: Result, *start: str) -> list[str]:
    (found,) = [line.split() for line in done.stdout.splitlines() if line.split()[: len(start)] == list(start)]
    return found[len(start) :]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with samples; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("measurable") / "bundle")


@pytest.fixture
def with_engine(tmp_path: Path) -> Path:
    """A bundle with samples and an engine, which the backend `fake` runs."""
    folder = tmp_path / "with-engine"
    (folder / ENGINE).parent.mkdir(parents=True)
    (folder / ENGINE).write_bytes(b"engine")
    made = Artifact("decoder", "fake", "fp32", ENGINE, *describe_file(folder, ENGINE), batch=(1, 2, 4), engine=KEY)
    return measurable.make(folder, made)


@pytest.fixture
def fake() -> Iterator[FakeBackend]:
    backend = FakeBackend(formats=("fake",))
    registry.register("fake", lambda: backend)
    yield backend
    registry.unregister("fake")


def reseal(source: Path, folder: Path, change: Callable[[Artifact], Artifact], **provenance: Any) -> Path:
    """A sealed copy with changed artifacts."""
    copy = Path(shutil.copytree(source, folder))
    manifest = Bundle.open(copy).manifest
    changed = tuple(change(artifact) for artifact in manifest.artifacts)
    seal(copy, dataclasses.replace(manifest, artifacts=changed, provenance=provenance))
    return copy


def encoder_as(artifact: Artifact, format: str, precision: str) -> Artifact:
    return dataclasses.replace(artifact, format=format, precision=precision) if artifact.part == "encoder" else artifact


class TestVerify:
    def test_a_bundle_measures_itself(self, bundle: Path) -> None:
        done = coda("verify", bundle, "--parity")
        assert done.stdout.endswith("all files are intact, and parity holds\n")
        assert row(done, "encoder.fp32.onnx", "onnxruntime:cpu") == ["100", "%"] * 2
        assert row(done, "search.fp32.npz", "numpy:cpu") == ["100", "%"] * 2
        data = report("verify", bundle, "--parity", "--device", "cpu", "--backend", "onnxruntime")
        assert list(data["parity"]) == ["search.fp32.npz", *tiny.FILES[:3]]
        assert data["parity"]["quantizer.fp32.onnx"]["onnxruntime:cpu"]["images"] == measurable.SAMPLES
        assert (data["ok"], data["unmeasured"], data["note"]) == (True, {}, None)

    def test_without_pytorch_coda_deploy_and_pillow(self, bare: Bare, bundle: Path) -> None:
        packages = ("numpy", "onnxruntime", "flatbuffers", "google", "packaging", "click", "rich", "pygments")
        done = bare(*packages)("verify", bundle, "--parity")
        assert (done.returncode, done.stderr) == (0, "")
        assert "and parity holds" in done.stdout

    def test_with_numpy_alone_nothing_can_be_measured(self, bare: Bare, bundle: Path) -> None:
        done = bare("numpy", "click", "rich", "pygments")("verify", bundle, "--parity")
        assert done.returncode == 1
        files = "encoder.fp32.onnx, quantizer.fp32.onnx, decoder.fp32.onnx"
        assert done.stderr.startswith(f"error: no graph could be measured here: {files}: onnxruntime:auto: ")
        assert 'pip install "onnxruntime>=' in done.stderr
        assert "holds" not in done.stdout

    def test_without_onnxruntime_an_engine_s_tokens_are_taken_by_numpy(
        self, bundle: Path, tmp_path: Path, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a server that has the engine library, NumPy and nothing else."""
        missing = MissingDependencyError("running ONNX files needs onnxruntime", "cpu")
        monkeypatch.setattr(OnnxRuntimeBackend, "missing", lambda _: missing)
        folder = tmp_path / "engines-too"
        folder.mkdir()
        made = []
        for part in ("encoder", "quantizer", "decoder"):
            file = f"{part}.engine"
            (folder / file).write_bytes(part.encode())
            made.append(Artifact(part, "fake", "fp32", file, *describe_file(folder, file), batch=(1, 2, 4), engine=KEY))
        measurable.make(folder, *made)
        done = coda("verify", folder, "--parity")
        assert row(done, "encoder.engine", "fake:cuda:3") == [*["100", "%"] * 2, "1,2,4"]
        assert "parity holds for 3 of 6 graphs" in done.stdout

    def test_an_engine_at_every_size_of_its_profile(self, with_engine: Path, fake: FakeBackend) -> None:
        done = coda("verify", with_engine, "--parity", "--device", "auto")
        assert row(done, ENGINE, "fake:cuda:3") == ["identical", "1,2,4"]
        assert "and parity holds" in done.stdout
        assert fake.sizes == [1] * 5 + [2] * 3 + [4] * 2

    def test_an_engine_for_another_gpu_is_reported_and_no_failure(self, with_engine: Path, fake: FakeBackend) -> None:
        fake.rejects = EngineMismatchError("it was built for sm89, and this GPU is sm90")
        done = coda("verify", with_engine, "--parity")
        assert "and parity holds" not in done.stdout
        assert "parity holds for 3 of 4 graphs, the others were not measured: " in done.stdout
        reason = "fake:auto: it was built for sm89, and this GPU is sm90"
        assert report("verify", with_engine, "--parity")["unmeasured"] == {ENGINE: reason}

    def test_an_engine_whose_library_is_not_here(self, with_engine: Path, fake: FakeBackend) -> None:
        fake.lacks = MissingDependencyError("fake engines need fake, which is not installed", "fake")
        data = report("verify", with_engine, "--parity")
        assert "pip install fake" in data["unmeasured"][ENGINE]
        assert data["parity"]["decoder.fp32.onnx"]["onnxruntime:cpu"]["images"] == measurable.SAMPLES
        assert "pip install fake" in coda("verify", with_engine, "--parity", "--backend", "fake", code=1).stderr

    def test_a_format_that_nothing_here_loads(self, with_engine: Path) -> None:
        unmeasured = report("verify", with_engine, "--parity")["unmeasured"]
        assert unmeasured == {ENGINE: "fake:auto: no backend here loads the format 'fake'; update coda-runtime"}

    def test_one_backend_measures_what_it_loads(self, with_engine: Path, fake: FakeBackend) -> None:
        data = report("verify", with_engine, "--parity", "--backend", "fake")
        assert list(data["parity"]) == ["search.fp32.npz", ENGINE]
        assert data["unmeasured"] == dict.fromkeys(tiny.FILES[:3], "not asked for")
        assert "parity holds for 1 of 4 graphs" in data["note"]

    def test_a_backend_that_loads_nothing_of_the_bundle(self, bundle: Path, fake: FakeBackend) -> None:
        done = coda("verify", bundle, "--parity", "--backend", "fake", code=1)
        assert "has onnx, and fake loads fake; choose another --backend" in done.stderr
        assert 'expected one of "auto"' in coda("verify", bundle, "--parity", "--backend", "none", code=1).stderr

    def test_an_engine_that_is_wrong(self, with_engine: Path, fake: FakeBackend) -> None:
        fake.spoil = lambda out: out // 2
        done = coda("verify", with_engine, "--parity", code=1)
        assert "error: the fp32 decoder is " in done.stderr
        assert "the threshold is 55.00 dB" in done.stderr
        assert row(done, ENGINE, "fake:cuda:3")[-2:] == ["dB", "1,2,4"], "what was measured is shown all the same"
        assert "holds" not in done.stdout
        assert report("verify", with_engine, "--parity", code=1)["ok"] is False

    def test_an_engine_that_fails_where_it_may_load(self, with_engine: Path, fake: FakeBackend) -> None:
        fake.spoil = no_memory
        done = coda("verify", with_engine, "--parity", code=1)
        assert "the fp32 decoder could not be run, so its parity is unknown: at a batch of 1: no memory" in done.stderr

    def test_more_than_one_failure(self, bundle: Path, tmp_path: Path) -> None:
        thresholds = {"fp32": {"min_agreement": 0, "min_psnr": 0}}
        lenient = reseal(bundle, tmp_path / "lenient", lambda artifact: artifact, floors=thresholds)
        swapped = np.load(lenient / "codebook.fp32.npy")[::-1].copy()
        np.save(lenient / "codebook.fp32.npy", swapped)

        def described(artifact: Artifact) -> Artifact:
            digest, size = describe_file(lenient, artifact.file)
            return dataclasses.replace(artifact, sha256=digest, bytes=size)

        # The table that steps are searched with is another one: everything but the decoder falls.
        strict = reseal(lenient, tmp_path / "strict", described)
        done = coda("verify", strict, "--parity", code=1)
        assert "the fp32 search agrees with the tokenizer on" in done.stderr
        assert "(and 2 more)" in done.stderr
        # Floors that the bundle was exported with are those that count.
        assert (
            "parity holds"
            in coda("verify", reseal(lenient, tmp_path / "again", described, floors=thresholds), "--parity").stdout
        )

    @pytest.mark.parametrize("said", ["rejects", "fails"])
    def test_a_bf16_graph_that_a_backend_cannot_load_is_reported(
        self, bundle: Path, tmp_path: Path, fake: FakeBackend, said: str
    ) -> None:
        """An ONNX file: a library may lack the precision."""
        fake.formats, fake.only = ("onnx",), "bf16"
        setattr(fake, said, BackendError("no bf16 convolution"))
        folder = reseal(bundle, tmp_path / "bf16", lambda a: encoder_as(a, "onnx", "bf16"))
        done = coda("verify", folder, "--parity", "--backend", "fake")
        assert "and parity holds" not in done.stdout
        assert "parity holds for 2 of 3 graphs" in done.stdout
        assert "encoder.fp32.onnx: fake:auto: no bf16 convolution" in done.stdout

    @pytest.mark.parametrize(
        ("format", "fault", "match"),
        [
            ("fake", {"fails": BackendError("damaged")}, "damaged"),
            ("fake", {"spoil": no_memory}, "no memory left"),
            ("onnx", {"fails": DeviceMemoryError("no memory to load it")}, "no memory to load it"),
            ("onnx", {"spoil": no_memory}, "no memory left"),
        ],
    )
    def test_bf16_that_may_load_here_has_to_run(
        self, bundle: Path, tmp_path: Path, fake: FakeBackend, format: str, fault: dict[str, Any], match: str
    ) -> None:
        """An engine of a low precision was built for this machine, and a graph that loaded has what it needs."""
        fake.formats, fake.only = (format,), "bf16"
        for name, value in fault.items():
            setattr(fake, name, value)
        folder = reseal(bundle, tmp_path / "bf16", lambda a: encoder_as(a, format, "bf16"))
        done = coda("verify", folder, "--parity", "--backend", "fake", code=1)
        assert f"error: the bf16 encoder could not be run, so its parity is unknown: {match}" in done.stderr

    def test_kernels_of_a_bundle_run_only_where_they_are_asked_for(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PTX is a program of whoever made the bundle."""
        asked = []
        monkeypatch.setattr(PtxBackend, "missing", lambda _: asked.append("cuda"))
        monkeypatch.setattr(PtxBackend, "check", lambda *_: EngineMismatchError("no GPU here"))
        folder = Path(shutil.copytree(bundle, tmp_path / "kernels"))
        (folder / "quantizer.ptx").write_bytes(b"ptx")
        manifest = Bundle.open(folder).manifest
        made = Artifact("quantizer", "ptx", "fp32", "quantizer.ptx", *describe_file(folder, "quantizer.ptx"), engine={})
        seal(folder, dataclasses.replace(manifest, artifacts=(*manifest.artifacts, made)))
        reason = report("verify", folder, "--parity")["unmeasured"]["quantizer.ptx"]
        assert reason.startswith("cuda:auto: cuda runs only on request: --backend cuda")
        assert asked == []
        done = coda("verify", folder, "--parity", "--backend", "cuda", code=1)
        assert "quantizer.ptx: cuda:auto: no GPU here" in done.stderr
        assert asked

    def test_host_code_runs_only_where_it_is_allowed(self, with_engine: Path, fake: FakeBackend) -> None:
        coda("verify", with_engine, "--parity", "--backend", "fake")
        assert {options.allow_host_code for options in fake.options} == {False}
        fake.options.clear()
        coda("verify", with_engine, "--parity", "--backend", "fake", "--allow-host-code")
        assert [options.allow_host_code for options in fake.options] == [True, True], "when asked, and when loaded"

    def test_one_black_image_is_shown_and_fails(self, with_engine: Path, fake: FakeBackend) -> None:
        def blacken(out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            out = out.copy()
            out[:, 0, 0, 0] ^= 1
            if len(fake.sizes) == 1:
                out[0] = 0
            return out

        fake.spoil = blacken
        done = coda("verify", with_engine, "--parity", "--backend", "fake", code=1)
        assert "error: the worst image of the fp32 decoder is " in done.stderr
        mean, _, worst, unit, sizes = row(done, ENGINE, "fake:cuda:3")
        assert float(mean) > 55 > 20 > float(worst)
        assert (unit, sizes) == ("dB", "1,2,4")

    def test_a_precision_without_a_threshold(self, bundle: Path, tmp_path: Path) -> None:
        def to_int4(artifact: Artifact) -> Artifact:
            return dataclasses.replace(artifact, precision="int4") if artifact.part == "encoder" else artifact

        folder = reseal(bundle, tmp_path / "int4", to_int4)
        reason = report("verify", folder, "--parity")["unmeasured"]["encoder.fp32.onnx"]
        assert reason.startswith("onnxruntime:auto: there is no threshold for precision 'int4', only for")

    def test_a_search_table_in_a_precision_without_a_threshold(self, bundle: Path, tmp_path: Path) -> None:
        def to_fp64(artifact: Artifact) -> Artifact:
            return dataclasses.replace(artifact, precision="fp64") if artifact.part == "search" else artifact

        done = coda("verify", reseal(bundle, tmp_path / "fp64", to_fp64), "--parity", code=1)
        assert "error: there is no threshold for precision 'fp64'" in done.stderr

    def test_a_bundle_made_by_hand_has_no_samples(self, minimal: Path, sealed: Path) -> None:
        for folder in (minimal, sealed):
            coda("verify", folder)
            done = coda("verify", folder, "--parity", code=1)
            assert "has no part 'parity' in format 'npz'" in done.stderr
            assert "coda verify BUNDLE --tokenizer DIR" in done.stderr

    def test_damaged_samples_are_not_measured_with(self, bundle: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(bundle, tmp_path / "damaged"))
        (folder / "parity.fp32.npz").write_bytes(b"")
        done = coda("verify", folder, "--parity", code=1)
        assert "parity.fp32.npz" in done.stderr
        assert "holds" not in done.stdout

    def test_wrong_usage(self, bundle: Path, tmp_path: Path) -> None:
        coda("verify", bundle, "--device", "cpu", code=2)
        coda("verify", bundle, "--backend", "onnxruntime", code=2)
        coda("verify", bundle, "--parity", "--tokenizer", tmp_path, code=2)
        assert "--record needs --parity" in coda("verify", bundle, "--record", code=2).stderr
        done = coda("verify", bundle, "--tokenizer", tmp_path, "--allow-host-code", "--record", code=2)
        assert "--allow-host-code and --record need --parity" in done.stderr
        assert "device is 'gpu'" in coda("verify", bundle, "--parity", "--device", "gpu", code=1).stderr


@pytest.mark.parametrize("measured", [{"onnxruntime:cpu": {"psnr": None, "reason": "no bf16 convolution"}}, {}, None])
def test_the_tokenizer_s_parity_does_not_hold_where_it_was_not_measured(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: dict[str, Any] | None
) -> None:
    """`coda verify --tokenizer`: a part with a reason, with no numbers, and one that was left out."""
    parity: dict[str, Any] = {file: {"onnxruntime:cpu": {"psnr": None}} for file in tiny.FILES[:2]}
    if measured is not None:
        parity[tiny.FILES[2]] = measured

    class Plugin:
        @staticmethod
        def load() -> Any:
            return lambda *_: parity

    monkeypatch.setattr(verify_module.metadata, "entry_points", lambda **_: [Plugin])
    done = coda("verify", sealed, "--tokenizer", tmp_path)
    assert "and parity holds" not in done.stdout
    assert "parity holds for 2 of 3 graphs, the others were not measured: decoder.fp32.onnx" in done.stdout
    assert list(report("verify", sealed, "--tokenizer", tmp_path)["unmeasured"]) == ["decoder.fp32.onnx"]


class TestInspect:
    def test_parity_profile_and_what_an_engine_was_built_for(self, with_engine: Path, tmp_path: Path) -> None:
        parity: dict[str, dict[str, Any]] = {
            "encoder.fp32.onnx": {"onnxruntime:cpu": {"step_agreement": 0.99951, "agreement": 0.9, "images": 8}},
            "decoder.fp32.onnx": {"onnxruntime:cpu": {"psnr": None}, "openvino:cpu": {"psnr": None, "reason": "why"}},
            ENGINE: {
                "fake:cuda:0": {"psnr": 61.26, "batches": {"1": {"psnr": 62.0}, "4": {"psnr": 61.26}}},
                "fake:cuda:1": {"psnr": 61.26, "psnr_min": 58.04},
            },
        }
        folder = reseal(
            with_engine, tmp_path / "shown", lambda a: dataclasses.replace(a, parity=parity.get(a.file, {}))
        )
        done = coda("inspect", folder)
        assert row(done, "encoder.fp32.onnx", "onnxruntime:cpu") == ["99.951", "%", "90.000", "%"]
        assert row(done, "decoder.fp32.onnx", "onnxruntime:cpu") == ["identical"]
        assert row(done, "decoder.fp32.onnx", "openvino:cpu") == ["not", "run"]
        assert "not run: decoder.fp32.onnx on openvino:cpu: why" in done.stdout.splitlines()
        assert row(done, ENGINE, "fake:cuda:0") == ["61.3", "dB", "1,4"], "recorded before the worst image was"
        assert row(done, ENGINE, "fake:cuda:1") == ["61.3", "dB", "58.0", "dB"]
        assert "fake 1.2, sm89 sm120, GPU 9, linux-x86_64" in done.stdout
        assert row(done, "decoder", "fake", "fp32")[3] == "1,2,4"
        assert row(done, "decoder", "onnx", "fp32")[3:] == ["any"]
        assert row(done, "parity", "npz", "fp32")[-1] == "parity.fp32.npz"

    @pytest.mark.parametrize(
        ("parity", "engine"),
        [
            ({"onnxruntime": 3, "other": {"psnr": "high", "psnr_min": "low", "batches": 7}}, {"targets": "sm89"}),
            ({"onnxruntime": {}}, {"library": None, "targets": [8.9], "os": 3}),
        ],
    )
    def test_what_was_written_by_hand_is_shown_as_it_is(
        self, sealed: Path, tmp_path: Path, parity: dict[str, Any], engine: dict[str, Any]
    ) -> None:
        folder = reseal(
            sealed, tmp_path / "odd", lambda a: dataclasses.replace(a, parity=parity, engine={**engine, "file": a.file})
        )
        done = coda("inspect", folder)
        assert "onnxruntime" in done.stdout
        assert ("sm89" in done.stdout) or ("8.9, 3" in done.stdout)
