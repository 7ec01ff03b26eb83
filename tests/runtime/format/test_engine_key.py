"""An engine loads only where library, version, GPU, system and ONNX file are those it was built with."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from coda_runtime import EngineMismatchError
from coda_runtime.build.options import BuildOptions
from coda_runtime.format.engine_key import (
    BuildFlags,
    Capability,
    EngineKey,
    OnnxSource,
    incompatibility,
    system,
    with_scratch,
)
from coda_runtime.format.manifest import Artifact, Manifest
from tests.runtime import tiny

ONNX = Artifact("encoder", "onnx", "bf16", "encoder.bf16.onnx", "a" * 64, 1)
MANIFEST = Manifest(tiny.SPEC, (ONNX,))
HERE: dict[str, Any] = {
    "library": "tensorrt",
    "library_version": "11.4.0.106",
    "compute_capability": "sm90",
    "gpu": "NVIDIA H100",
    "os": system(),
}


def engine(
    library: str = "tensorrt",
    version: str = "11.4.0.106",
    targets: tuple[str, ...] = ("sm90",),
    gpu: str | None = "NVIDIA H100",
    onnx: Artifact = ONNX,
    **options: Any,
) -> Artifact:
    made = BuildOptions(batch=(1, 4, 8), **options)
    key = EngineKey.made_here(
        library=library,
        library_version=version,
        targets=targets,
        onnx=onnx,
        flags=made.flags(),
        gpu=gpu,
        driver="13.0",
    )
    return Artifact("encoder", library, "bf16", "engines/e.engine", "b" * 64, 1, batch=made.batch, engine=key.to_json())


def message(artifact: Artifact, manifest: Manifest | None = MANIFEST, **here: Any) -> str:
    """Why it may not load; empty where it may."""
    problem = incompatibility(artifact, manifest, **(HERE | here))
    assert problem is None or isinstance(problem, EngineMismatchError)
    return "" if problem is None else str(problem)


def test_the_key_is_written_and_read_as_the_manifest_has_always_had_it() -> None:
    flags = BuildFlags(workspace_gib=0.5, hardware_compatible="ampere-plus", version_compatible=True)
    made = EngineKey(
        library="tensorrt",
        library_version="11.4",
        targets=("sm89", "sm90"),
        gpu=None,
        os="linux-x86_64",
        driver="13.0",
        onnx=OnnxSource("encoder.bf16.onnx", "a" * 64),
        flags=flags,
        layers={"CONVOLUTION": {"BF16": 3}},
    )
    text = (
        '{"library": "tensorrt", "library_version": "11.4", "targets": ["sm89", "sm90"], "gpu": null, '
        '"os": "linux-x86_64", "driver": "13.0", "onnx": {"file": "encoder.bf16.onnx", "sha256": "' + "a" * 64 + '"}, '
        '"flags": {"tf32": false, "workspace_gib": 0.5, "optimization_level": null, '
        '"hardware_compatible": "ampere-plus", "version_compatible": true}, "layers": {"CONVOLUTION": {"BF16": 3}}}'
    )
    assert json.dumps(made.to_json()) == text
    artifact = dataclasses.replace(ONNX, format="tensorrt", engine=json.loads(text))
    assert EngineKey.from_json(artifact.engine) == made
    assert "layers" not in dataclasses.replace(made, layers=None).to_json()


@pytest.mark.parametrize(("name", "written"), [("sm75", "7.5"), ("sm89", "8.9"), ("sm120", "12.0")])
def test_a_capability_has_two_names(name: str, written: str) -> None:
    found = Capability.parse(name)
    assert found is not None
    assert (found.name, str(found)) == (name, written)


def test_capabilities_are_compared_by_number() -> None:
    assert Capability(8, 9) < Capability(9, 0) < Capability(12, 0)
    assert [Capability.parse(name) for name in ("89", "sm9", "sm90a", "sm_90", "sm1234", "")] == [None] * 6


def test_where_it_was_built_it_loads() -> None:
    assert message(engine()) == ""
    assert message(Artifact.from_json(engine().to_json())) == "", "the key survives the manifest"


@pytest.mark.parametrize(
    ("here", "found"),
    [
        ({"library_version": "11.5.0.1"}, "built by version 11.4.0.106, and 11.5.0.1 is installed"),
        ({"library_version": "11.3.0.1"}, "built by version 11.4.0.106, and 11.3.0.1 is installed"),
        ({"compute_capability": "sm89"}, "built for sm90, and this GPU is sm89"),
        ({"gpu": "NVIDIA GH200"}, "tuned on NVIDIA H100, and this is NVIDIA GH200"),
        ({"os": "windows-x86_64"}, f"built on {system()}, and this is windows-x86_64"),
        ({"os": "linux-aarch64"}, "and this is linux-aarch64"),
        ({"library": "tensorrt-rtx"}, "built by 'tensorrt', and this is tensorrt-rtx"),
    ],
)
def test_what_differs_is_named_with_the_command(here: dict[str, Any], found: str) -> None:
    text = message(engine(), **here)
    assert found in text
    library = here.get("library", "tensorrt")
    assert f"coda build BUNDLE --engine {library} --precision bf16 --batch 1,4,8" in text


def test_the_command_builds_what_fits() -> None:
    rtx = engine("tensorrt-rtx", "1.7.1.116", ("sm89",), gpu=None)
    here = {"library": "tensorrt-rtx", "library_version": "1.7.1.116", "targets": ("sm75", "sm89")}
    assert "--engine tensorrt-rtx --target sm75 --precision" in message(rtx, **here, compute_capability="sm75")
    assert "tensorrt-rtx cannot build for sm90: take --engine tensorrt" in message(
        rtx, **here, compute_capability="sm90"
    )
    kept = engine(hardware="same-compute-capability", version_compatible=True)
    assert message(kept, compute_capability="sm75").endswith("--hardware same-compute-capability --version-compatible")


def test_everything_that_differs_is_named() -> None:
    text = message(engine(), library_version="12.0", compute_capability="sm75", os="windows-x86_64")
    assert text.count("; ") == 2


def test_an_engine_of_another_onnx_file() -> None:
    other = dataclasses.replace(ONNX, sha256="c" * 64)
    assert "built from another encoder.bf16.onnx (cccccccccccc, here aaaaaaaaaaaa)" in message(engine(onnx=other))
    without = Manifest(tiny.SPEC, (dataclasses.replace(ONNX, precision="fp32"),))
    assert "has no ONNX encoder in bf16 to compare it with" in message(engine(), without)


def test_version_compatible_engines_go_forward_within_a_major_version() -> None:
    made = engine(version_compatible=True)
    assert message(made, library_version="11.4.0.106") == ""
    assert message(made, library_version="11.10.1") == ""
    assert "12.0.0 is installed" in message(made, library_version="12.0.0")
    assert "11.3.9 is installed" in message(made, library_version="11.3.9")


def test_hardware_compatible_engines() -> None:
    ampere = engine(hardware="ampere-plus", targets=("sm80",), gpu="NVIDIA A100")
    for capability in ("sm80", "sm89", "sm90", "sm120"):
        assert message(ampere, compute_capability=capability) == ""
    assert "needs an Ampere GPU or a later one, this is sm75" in message(ampere, compute_capability="sm75")
    same = engine(hardware="same-compute-capability")
    assert message(same, gpu="NVIDIA GH200") == ""
    assert "built for sm90" in message(same, compute_capability="sm100")


def test_tensorrt_rtx_engines_cross_systems_and_name_their_gpus() -> None:
    made = engine("tensorrt-rtx", "1.7.1.116", ("sm86", "sm89", "sm120"), gpu=None)
    here = {"library": "tensorrt-rtx", "library_version": "1.7.1.116", "gpu": "NVIDIA GeForce RTX 4090"}
    assert message(made, **here, compute_capability="sm89", os="windows-x86_64") == ""
    assert "built for sm86, sm89, sm120, and this GPU is sm90" in message(made, **here, compute_capability="sm90")
    assert "1.8.0 is installed" in message(made, **(here | {"library_version": "1.8.0"}), compute_capability="sm89")


@pytest.mark.parametrize(
    "change", [{"engine": None}, {"engine": {}}, {"batch": None}], ids=["no key", "empty key", "no profile"]
)
def test_an_engine_without_a_key_never_loads(change: dict[str, Any]) -> None:
    text = message(dataclasses.replace(engine(), **change))
    assert "the manifest does not say what it was built for" in text


def test_an_engine_of_several_profiles_is_rebuilt_with_all_of_them() -> None:
    several = engine().with_profiles([(1, 1, 1), (8, 16, 32)])
    assert message(several) == ""
    assert "--precision bf16 --batch 1,1,1 --batch 8,16,32" in message(several, library_version="11.5")


def test_a_reader_that_knows_one_profile_only_finds_such_an_engine_incompatible() -> None:
    """It reads the entry without the key that it does not know: what is left says nothing of batches."""
    entry = engine().with_profiles([(1, 1, 1), (8, 16, 32)]).to_json()
    del entry["profiles"]
    assert "the manifest does not say what it was built for" in message(Artifact.from_json(entry))


def test_the_memory_of_profiles_is_recorded_and_not_compared() -> None:
    made = with_scratch(engine(), [100, 3000])
    assert made.engine is not None
    assert EngineKey.from_json(made.engine).scratch_bytes == (100, 3000)
    assert EngineKey.from_json(made.engine).to_json() == made.engine
    assert message(made) == ""
    for mangled in (7, [1, -1], ["1"], None):
        assert EngineKey.from_json({**made.engine, "scratch_bytes": mangled}).scratch_bytes is None


@pytest.mark.parametrize("field", ["library", "library_version", "targets", "os", "onnx"])
@pytest.mark.parametrize("value", [None, 3, "x", [], {}])
def test_a_mangled_key_never_loads(field: str, value: Any) -> None:
    made = engine()
    assert made.engine is not None
    assert message(dataclasses.replace(made, engine={**made.engine, field: value}))


def test_without_a_gpu_only_the_rest_is_compared() -> None:
    assert message(engine(), compute_capability=None, gpu=None) == ""
    assert "is installed" in message(engine(), compute_capability=None, library_version="10.0")
