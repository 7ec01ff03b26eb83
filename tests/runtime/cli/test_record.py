"""`coda verify --parity --record`: what was measured is in the manifest afterwards, and nothing else has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from coda_runtime.backends import registry
from coda_runtime.cli import app
from coda_runtime.errors import CodaError, EngineMismatchError, InputError, OutputError
from coda_runtime.format.bundle import Bundle, describe_file
from coda_runtime.format.manifest import Artifact
from coda_runtime.parity import Measured, NotMeasured, record_parity
from tests.runtime import measurable
from tests.runtime.backends.cuda import fake_trt
from tests.runtime.backends.cuda.driver.controls import Driver
from tests.runtime.backends.tensorrt.test_backend import Machine
from tests.runtime.parity.fakes import FakeBackend

ENGINE = "decoder.fp32.engine"
NOT_RUN = {"psnr": None, "reason": "no GPU where it was built", "images": 5}
OTHER = {"other:cuda:0": {"psnr": None, "reason": "not installed"}, "fake:cuda:7": {"psnr": 60.0}, "note": 3}


def coda(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app.cli, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with samples and an engine that was never run, and a file of the user's."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / ENGINE).write_bytes(b"engine")
    (folder / "README.md").write_text("mine")
    parity = {"fake:cuda": NOT_RUN, **OTHER}
    made = Artifact("decoder", "fake", "fp32", ENGINE, *describe_file(folder, ENGINE), batch=(1, 2, 4), parity=parity)
    return measurable.make(folder, made, made_by="hand")


@pytest.fixture
def fake() -> Iterator[FakeBackend]:
    backend = FakeBackend(formats=("fake",), device="cuda:0")
    registry.register("fake", lambda: backend)
    yield backend
    registry.unregister("fake")


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """(inode, time, digest) of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
    }


def engine(folder: Path) -> Artifact:
    (found,) = [artifact for artifact in Bundle.open(folder).manifest.artifacts if artifact.file == ENGINE]
    return found


def test_an_engine_that_was_never_run_is_measured_where_it_runs(folder: Path, fake: FakeBackend) -> None:
    before, manifest = state(folder), Bundle.open(folder).manifest
    done = coda("verify", folder, "--parity", "--backend", "fake", "--record")
    assert f"recorded in {folder / 'manifest.json'}: search.fp32.npz, {ENGINE}\n" in done.stdout
    after, opened = state(folder), Bundle.open(folder)
    opened.verify("always")
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"manifest.json", "SHA256SUMS"}
    parity = engine(folder).parity
    assert list(parity) == ["other:cuda:0", "fake:cuda:7", "note", "fake:cuda:0"], "the backend's own reason is gone"
    assert {name: parity[name] for name in OTHER} == OTHER
    assert parity["fake:cuda:0"]["batches"].keys() == {"1", "2", "4"}
    assert parity["fake:cuda:0"]["images_from"] == "samples in the bundle"

    def bare(artifacts: tuple[Artifact, ...]) -> list[Artifact]:
        return [dataclasses.replace(artifact, parity={}) for artifact in artifacts]

    assert bare(opened.manifest.artifacts) == bare(manifest.artifacts)
    assert dataclasses.replace(opened.manifest, artifacts=()) == dataclasses.replace(manifest, artifacts=())


@pytest.mark.parametrize("rtx", [False, True])
def test_the_memory_of_each_batch_profile_is_recorded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver, rtx: bool
) -> None:
    machine, profiles = Machine(monkeypatch, rtx=rtx), ((1, 1, 1), (2, 3, 6))
    folder = measurable.make(tmp_path / "bundle")
    built = machine.artifact(folder, folder, profiles=profiles).with_profiles(profiles)
    measurable.make(folder, built)
    coda("verify", folder, "--parity", "--backend", machine.backend.name, "--device", "cuda:0", "--record")
    Bundle.open(folder).verify("always")
    (after,) = [of for of in Bundle.open(folder).manifest.artifacts if of.file == built.file]
    assert after.is_measured
    assert after.engine == {**(built.engine or {}), "scratch_bytes": [fake_trt.SCRATCH, 6 * fake_trt.SCRATCH]}


def one_pixel(out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out[:, 0, 0, 0] ^= 1
    return out


def test_again_replaces_what_was_recorded(folder: Path, fake: FakeBackend) -> None:
    coda("verify", folder, "--parity", "--record")
    once = (folder / "manifest.json").read_bytes()
    fake.spoil = one_pixel
    coda("verify", folder, "--parity", "--record")
    assert list(engine(folder).parity) == ["other:cuda:0", "fake:cuda:7", "note", "fake:cuda:0"]
    assert engine(folder).parity["fake:cuda:0"]["psnr"] > 55
    fake.spoil = lambda out: out
    coda("verify", folder, "--parity", "--record")
    assert (folder / "manifest.json").read_bytes() == once


def test_json_names_what_was_recorded(folder: Path, fake: FakeBackend) -> None:
    data = json.loads(coda("verify", folder, "--parity", "--backend", "fake", "--record", "--json").stdout)
    assert data["recorded"] == ["search.fp32.npz", ENGINE]
    assert json.loads(coda("verify", folder, "--parity", "--json").stdout)["recorded"] == []


def test_what_was_not_measured_is_not_recorded(folder: Path, fake: FakeBackend) -> None:
    fake.rejects = EngineMismatchError("it was built for another GPU")
    done = coda("verify", folder, "--parity", "--record")
    assert "recorded in " in done.stdout
    assert engine(folder).parity == {"fake:cuda": NOT_RUN, **OTHER}
    encoder = Bundle.open(folder).manifest.find("encoder")[0]
    assert encoder.parity["onnxruntime:cpu"]["step_agreement"] == 1.0


def test_without_record_nothing_is_written(folder: Path, fake: FakeBackend) -> None:
    before = state(folder)
    coda("verify", folder, "--parity")
    assert state(folder) == before


def test_a_threshold_that_is_missed_leaves_the_bundle_as_it_was(folder: Path, fake: FakeBackend) -> None:
    before = state(folder)
    fake.spoil = lambda out: out // 2
    assert "the threshold is" in coda("verify", folder, "--parity", "--record", code=1).stderr
    assert state(folder) == before


def test_a_broken_file_leaves_the_bundle_as_it_was(folder: Path, fake: FakeBackend) -> None:
    (folder / "codebook.fp32.npy").write_bytes(b"")
    before = state(folder)
    coda("verify", folder, "--parity", "--record", code=1)
    assert state(folder) == before


def rejected(folder: Path, fake: FakeBackend, match: str) -> None:
    before = state(folder)
    assert match in coda("verify", folder, "--parity", "--record", code=1).stderr
    assert state(folder) == before
    assert fake.sizes == [], "it is said before anything is measured"


def test_the_hub_s_cache_is_not_changed(folder: Path, fake: FakeBackend, tmp_path: Path) -> None:
    repo = tmp_path / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    snapshot = Path(shutil.copytree(folder, repo / "snapshots" / "abc"))
    rejected(snapshot, fake, "is the Hub's cache or a folder of links")


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_a_list_that_is_a_link_is_not_followed(folder: Path, fake: FakeBackend, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    rejected(folder, fake, "cp -rL")
    assert (tmp_path / name).read_bytes() == before


def test_a_bundle_that_nobody_sealed_is_not_sealed_by_the_way(folder: Path, fake: FakeBackend) -> None:
    manifest = dataclasses.replace(Bundle.open(folder).manifest, checksums=None)
    (folder / "manifest.json").write_bytes(manifest.dump())
    (folder / "SHA256SUMS").unlink()
    rejected(folder, fake, "is not sealed (no SHA256SUMS)")


def test_a_manifest_that_changed_meanwhile_is_kept(folder: Path) -> None:
    opened, other = Bundle.open(folder), Bundle.open(folder)
    record_parity(other, {ENGINE: {"fake:cuda:0": Measured({"psnr": 60.0})}})
    before = state(folder)
    with pytest.raises(OutputError, match="has changed since it was read"):
        record_parity(opened, {ENGINE: {"fake:cuda:1": Measured({"psnr": 60.0})}})
    assert state(folder) == before


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_no_room_for_either_list_leaves_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    before, opened, write = state(folder), Bundle.open(folder), Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if name in path.name:
            raise OSError(28, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CodaError, match="No space left on device"):
        record_parity(opened, {ENGINE: {"fake:cuda:0": Measured({"psnr": 60.0})}})
    assert state(folder) == before


def test_nothing_measured_writes_nothing(folder: Path) -> None:
    before, opened = state(folder), Bundle.open(folder)
    assert record_parity(opened, {ENGINE: {"fake:cuda:0": NotMeasured("no GPU")}}) == (opened.manifest, [])
    assert state(folder) == before
    unsealed = dataclasses.replace(opened.manifest, checksums=None)
    with pytest.raises(InputError, match="not sealed"):
        record_parity(Bundle(folder, unsealed, b""), {})
