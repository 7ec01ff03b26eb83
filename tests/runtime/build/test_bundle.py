"""Engines join a bundle: all of them, sealed, or none."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coda_runtime import BuildError, ChecksumError, InputError, MissingDependencyError, OutputError, load
from coda_runtime.backends.tensorrt.library import EngineLibrary
from coda_runtime.build import bundle as engines
from coda_runtime.build.bundle import EngineRequest, add_engines
from coda_runtime.build.memory import PartMemory
from coda_runtime.build.options import BuildOptions
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.engine_key import EngineKey, system
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parts import PARTS
from coda_runtime.machine.devices import Gpu
from tests.runtime import tiny
from tests.runtime.build.conftest import TARGETS

Copy = Callable[[Path], Path]
REQUEST = EngineRequest("tensorrt-rtx", BuildOptions((1, 2, 4), ("sm89",)))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_engine_for_every_part(with_engines: Path, sealed: Path) -> None:
    bundle = Bundle.open(with_engines)
    bundle.verify("always")
    made = [a for a in bundle.manifest.artifacts if a.format == "tensorrt-rtx"]
    assert [a.part for a in made] == ["encoder", "quantizer", "decoder"]
    for artifact in made:
        assert artifact.file == f"engines/{artifact.part}.fp32.tensorrt-rtx-sm86-sm89-sm120.engine"
        assert artifact.batch == (1, 2, 4)
        key = artifact.engine
        assert key is not None
        (source,) = bundle.manifest.find(artifact.part, format="onnx")
        assert key["onnx"] == {"file": source.file, "sha256": source.sha256}
        assert key["library"] == "tensorrt-rtx"
        assert key["targets"] == list(TARGETS)
        assert key["flags"]["tf32"] is False
        assert key["gpu"] is None
        assert sum(sum(types.values()) for types in key["layers"].values()) > 0
    assert Bundle.open(sealed).manifest.artifacts == bundle.manifest.artifacts[:4], "the source is as it was"


def test_the_bundle_still_runs_without_a_gpu_and_says_what_it_skipped(with_engines: Path, sealed: Path) -> None:
    images = tiny.photos(3)
    with load(with_engines) as tok, load(sealed) as plain:
        assert (tok.encode(images) == plain.encode(images)).all()
        assert {artifact.format for artifact in tok.artifacts} == {"onnx"}
        for artifact in tok.artifacts:
            assert len(artifact.passed_over) == 1
            assert "GPU" in artifact.passed_over[0]
        assert all(not artifact.passed_over for artifact in plain.artifacts)


def test_the_default_targets_are_named(sealed: Path, tmp_path: Path) -> None:
    manifest = add_engines(sealed, EngineRequest("tensorrt-rtx"), out=tmp_path / "out")
    key = manifest.find("encoder", format="tensorrt-rtx")[0].engine
    assert key is not None
    assert key["targets"] == ["sm80", "sm86", "sm89", "sm120"]


def test_in_place_and_again(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    (folder / "README.md").write_text("mine")
    before = snapshot(sealed)
    first = add_engines(folder, REQUEST)
    assert (folder / "README.md").read_text() == "mine", "what else lies in the folder stays"
    again = add_engines(folder, dataclasses.replace(REQUEST, options=BuildOptions((2, 2, 2), ("sm89",))))
    assert [a.file for a in again.artifacts] == [a.file for a in first.artifacts]
    assert [a.batch for a in again.artifacts if a.engine] == [(2, 2, 2), (1, 2, 4), (2, 2, 2)]
    Bundle.open(folder).verify("always")
    other = add_engines(folder, dataclasses.replace(REQUEST, options=BuildOptions((1, 1, 1), ("sm120",))))
    assert len(other.artifacts) == len(first.artifacts) + 3, "engines for other GPUs stand beside"
    assert snapshot(sealed) == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_bundle_written_elsewhere_shares_no_file_with_its_source(with_engines: Path, tmp_path: Path) -> None:
    before = snapshot(with_engines)
    out = tmp_path / "new"
    add_engines(with_engines, EngineRequest("tensorrt-rtx", BuildOptions((3, 3, 3), TARGETS)), out=out)
    for path in out.rglob("*"):
        if path.is_file():
            path.write_bytes(b"overwritten in place")
    assert snapshot(with_engines) == before
    Bundle.open(with_engines).verify("always")


def test_what_lies_in_the_folder_stays_as_it_lies_and_goes_nowhere_else(
    sealed: Path, copy: Copy, tmp_path: Path
) -> None:
    folder = copy(sealed)
    (tmp_path / "id_rsa").write_text("secret")
    (folder / "NOTES.md").symlink_to("../id_rsa")
    (folder / "empty" / "below").mkdir(parents=True)
    add_engines(folder, REQUEST, out=tmp_path / "published")
    assert sorted(path.name for path in (tmp_path / "published").iterdir()) == sorted(
        [*tiny.FILES, "engines", "manifest.json", "SHA256SUMS"]
    )
    add_engines(folder, REQUEST)
    assert (folder / "NOTES.md").is_symlink()
    assert (folder / "NOTES.md").readlink() == Path("../id_rsa")
    assert (folder / "empty" / "below").is_dir()
    assert (tmp_path / "id_rsa").stat().st_nlink == 1


def test_a_link_in_the_place_of_the_engines_is_not_followed(sealed: Path, copy: Copy, tmp_path: Path) -> None:
    folder, elsewhere = copy(sealed), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "engines").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="engines in the bundle is a link"):
        add_engines(folder, REQUEST)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("below", [".", "engines"])
def test_the_current_folder_is_not_replaced_under_the_shell(
    with_engines: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    folder = copy(with_engines)
    monkeypatch.chdir(folder / below)
    with pytest.raises(OutputError, match="is the current folder; run this from outside it"):
        add_engines(folder, REQUEST)
    add_engines(folder, REQUEST, out=folder.parent / "other")


def test_a_path_with_dots(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    add_engines(folder / ".." / folder.name, REQUEST)
    Bundle.open(folder).verify("always")
    assert len(Bundle.open(folder).manifest.artifacts) == 7


def test_a_folder_that_cannot_be_replaced_is_rejected_before_the_build(
    sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(sealed)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    monkeypatch.setattr(engines, "build_engine", lambda *_, **__: pytest.fail("nothing is to be built"))
    with pytest.raises(OutputError, match=r"is a mount point or its parent folder is read-only; write .* --out"):
        add_engines(folder, REQUEST)


def test_two_builds_at_once_do_not_lose_engines(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    other = EngineRequest("tensorrt-rtx", BuildOptions((1, 1, 1), ("sm120",)))

    def meanwhile(_: Bundle, artifact: Artifact) -> Artifact:
        if artifact.part == "decoder":
            add_engines(folder, other)
        return artifact

    with pytest.raises(
        OutputError, match="was changed while its engines were built, perhaps by another build; run again"
    ):
        add_engines(folder, REQUEST, measure=meanwhile)
    kept = Bundle.open(folder)
    kept.verify("always")
    assert {a.file.split("-")[-1] for a in kept.manifest.artifacts if a.engine} == {"sm120.engine"}


def test_the_quantizer_serves_every_precision_s_batches(with_engines: Path, copy: Copy) -> None:
    folder = copy(with_engines)
    manifest = add_engines(folder, EngineRequest("tensorrt-rtx", BuildOptions((8, 16, 16), TARGETS), ("fp32",)))
    batches = {a.part: a.batch for a in manifest.artifacts if a.engine}
    assert batches == {"encoder": (8, 16, 16), "quantizer": (1, 16, 16), "decoder": (8, 16, 16)}


def test_engines_of_two_profiles(sealed: Path, copy: Copy) -> None:
    """The profiles are one engine's: the quantizer, which serves every precision, keeps those that it had."""
    folder, told = copy(sealed), list[PartMemory]()
    two = BuildOptions(((8, 16, 32), (1, 1, 1)), ("sm89",))
    manifest = add_engines(folder, EngineRequest("tensorrt-rtx", two, report=told.extend))
    made = [artifact for artifact in manifest.artifacts if artifact.engine]
    assert [(artifact.batch, artifact.profiles) for artifact in made] == [(None, ((1, 1, 1), (8, 16, 32)))] * 3
    for artifact in made:
        small, large = EngineKey.from_json(artifact.engine).scratch_bytes or ()
        assert 0 < small < large
    assert [(part.part, part.precision) for part in told] == [(part, "fp32") for part in PARTS]
    for part in told:
        small, large = part.profiles
        assert (small.profile, large.profile) == ((1, 1, 1), (8, 16, 32))
        ends = (PARTS[part.part].input, PARTS[part.part].output)
        row = sum(math.prod(end.row(tiny.SPEC)) * end.dtype.itemsize for end in ends)
        assert (small.io_bytes, large.io_bytes) == (row, 32 * row)
    opened = Bundle.open(folder)
    opened.verify("always")
    assert [artifact.profiles for artifact in opened.manifest.artifacts] == [a.profiles for a in manifest.artifacts]
    wide = EngineRequest("tensorrt-rtx", BuildOptions((2, 4, 8), ("sm89",)), ("fp32",), report=pytest.fail)
    again = add_engines(folder, wide)
    assert {a.part: a.profiles for a in again.artifacts if a.engine} == {
        "encoder": ((2, 4, 8),),
        "quantizer": ((1, 1, 1), (2, 4, 8), (8, 16, 32)),
        "decoder": ((2, 4, 8),),
    }


def test_what_stops_at_the_memory_leaves_the_bundle_as_it_was(sealed: Path, copy: Copy) -> None:
    folder = copy(sealed)
    before = snapshot(folder)

    def stop(_: Sequence[PartMemory]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_engines(folder, EngineRequest("tensorrt-rtx", BuildOptions([(1, 1, 1), (2, 2, 2)]), report=stop))
    assert snapshot(folder) == before


def test_engines_for_two_models_of_one_capability_stand_beside_each_other() -> None:
    source = Artifact("encoder", "onnx", "bf16", "encoder.bf16.onnx", "a" * 64, 1)
    library = EngineLibrary("tensorrt", "TensorRT", "11.4.0", object())

    def name(gpu: str, **options: Any) -> str:
        return engines._file(source, library, ("sm89",), BuildOptions(**options), Gpu(gpu, "sm89", "13.0"))

    assert name("NVIDIA L40S") == f"engines/encoder.bf16.tensorrt-sm89-nvidia-l40s-{system()}.engine"
    assert name("NVIDIA L4") != name("NVIDIA L40S")
    assert name("NVIDIA L4", hardware="ampere-plus") == name("NVIDIA L40S", hardware="ampere-plus")


@pytest.mark.parametrize("error", [KeyboardInterrupt, BuildError])
def test_what_fails_leaves_the_bundle_as_it_was(
    sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    folder = copy(sealed)
    before = snapshot(folder)
    build, calls = engines.build_engine, []

    def second_fails(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise error("stopped")
        return build(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engines, "build_engine", second_fails)
    with pytest.raises(error):
        add_engines(folder, REQUEST)
    assert len(calls) == 2
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_measured_parity_is_written_and_a_failed_gate_leaves_nothing(sealed: Path, tmp_path: Path) -> None:
    def measured(bundle: Bundle, artifact: Artifact) -> Artifact:
        assert bundle.path(artifact).is_file()
        return dataclasses.replace(artifact, parity={"tensorrt-rtx:cuda:0": {"psnr": None, "reason": "no GPU"}})

    add_engines(sealed, REQUEST, out=tmp_path / "a", measure=measured)
    written = json.loads((tmp_path / "a" / "manifest.json").read_text())
    parities = [entry["parity"] for entry in written["artifacts"] if entry["format"] == "tensorrt-rtx"]
    assert parities == [{"tensorrt-rtx:cuda:0": {"psnr": None, "reason": "no GPU"}}] * 3

    def fails(*_: object) -> Artifact:
        raise BuildError("below its threshold")

    with pytest.raises(BuildError, match="below its threshold"):
        add_engines(sealed, REQUEST, out=tmp_path / "b", measure=fails)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_rejected_before_anything_is_built(sealed: Path, copy: Copy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision 'int4' is unknown, expected some of fp32, fp16, bf16"):
        add_engines(sealed, dataclasses.replace(REQUEST, precisions=("int4",)), out=tmp_path / "a")
    with pytest.raises(InputError, match="no ONNX files in 'fp16' to build from, only in fp32; add it: coda export"):
        add_engines(sealed, dataclasses.replace(REQUEST, precisions=("fp16",)), out=tmp_path / "a")
    with pytest.raises(InputError, match="exists; name a folder that does not"):
        add_engines(sealed, REQUEST, out=tmp_path)
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        add_engines(sealed, EngineRequest("tensorrt"), out=tmp_path / "a")
    folder = copy(sealed)
    with (folder / "encoder.fp32.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ChecksumError, match="encoder"):
        add_engines(folder, REQUEST)


def test_an_altered_or_cut_engine_is_found_at_load(with_engines: Path, copy: Copy) -> None:
    folder = copy(with_engines)
    file = folder / Bundle.open(folder).manifest.find("decoder", format="tensorrt-rtx")[0].file
    data = bytearray(file.read_bytes())
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ChecksumError, match="decoder"):
        load(folder, backend="onnxruntime")
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ChecksumError, match="decoder"):
        load(folder, backend="onnxruntime", verify="always")


@pytest.mark.parametrize("elsewhere", [True, False], ids=["copied", "in place"])
def test_a_graph_exchanged_after_the_check_is_not_built_from(
    sealed: Path, copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    folder = copy(sealed)
    graph = folder / "encoder.fp32.onnx"
    data = graph.read_bytes()
    built: list[bytes] = []
    real_verify, real_build = Bundle.verify, engines.build_engine

    def verify(self: Bundle, *args: Any) -> None:
        real_verify(self, *args)
        graph.unlink()
        graph.write_bytes(data[:-2] + bytes([data[-2] ^ 1, data[-1]]))

    def build(*args: Any, **settings: Any) -> Any:
        built.append(settings["read"])
        return real_build(*args, **settings)

    monkeypatch.setattr(Bundle, "verify", verify)
    monkeypatch.setattr(engines, "build_engine", build)
    with pytest.raises(ChecksumError, match=r"encoder\.fp32\.onnx has SHA-256"):
        add_engines(folder, REQUEST, out=tmp_path / "out" if elsewhere else None)
    assert not built
    assert not (tmp_path / "out").exists()
    assert not (folder / "engines").exists()


def test_an_engine_is_built_from_the_bytes_that_were_checked(
    sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(sealed)
    real = engines.build_engine

    def build(library: EngineLibrary, onnx: Path, *args: Any, **settings: Any) -> Any:
        content = onnx.read_bytes()
        onnx.write_bytes(b"no graph")  # and back again: nobody sees it afterwards
        try:
            return real(library, onnx, *args, **settings)
        finally:
            onnx.write_bytes(content)

    monkeypatch.setattr(engines, "build_engine", build)
    add_engines(folder, REQUEST, measure=lambda _, artifact: artifact)
    Bundle.open(folder).verify("always")
