"""Where a repository goes: beside other models, over an earlier one, never over somebody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coda_runtime import OutputError
from coda_runtime.triton import RepositoryOptions, check_destination, write_repository
from tests.runtime.triton import reading
from tests.runtime.triton.conftest import PARTS, Engines, engine

Make = Callable[[Engines], Path]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_models_stay(sealed: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models"
    (repo / "resnet" / "1").mkdir(parents=True)
    (repo / "resnet" / "config.pbtxt").write_text('name: "resnet"')
    (repo / "README.md").write_text("mine")
    write_repository(sealed, repo)
    assert (repo / "resnet" / "config.pbtxt").read_text() == 'name: "resnet"'
    assert (repo / "README.md").read_text() == "mine"
    assert sorted(path.name for path in repo.iterdir() if path.is_dir()) == [
        "decode",
        "decoder",
        "encode",
        "encoder",
        "quantizer",
        "resnet",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_written_again_nothing_of_the_old_one_is_left(with_engines: Make, tmp_path: Path) -> None:
    bundle = with_engines(lambda folder, sources: [engine(folder, source) for source in sources])
    repo = tmp_path / "models"
    for kind, name in (("onnx", "model.onnx"), ("tensorrt", "model.plan"), ("onnx", "model.onnx")):
        write_repository(bundle, repo, RepositoryOptions(format=kind))
        reading.check(repo)
        for part in PARTS:
            assert [path.name for path in (repo / part / "1").iterdir()] == [name]
    first = snapshot(repo)
    write_repository(bundle, repo, RepositoryOptions(format="onnx"))
    assert snapshot(repo) == first, "the same bundle and options give the same bytes"


@pytest.mark.parametrize("model", ["encoder", "encode"])
def test_a_model_of_somebody_else(sealed: Path, tmp_path: Path, model: str) -> None:
    repo = tmp_path / "models"
    (repo / model).mkdir(parents=True)
    (repo / model / "config.pbtxt").write_text(f'name: "{model}"')
    with pytest.raises(OutputError, match=f"{model} exists and was not written by coda; choose another folder"):
        write_repository(sealed, repo)
    assert snapshot(repo) == {f"{model}/config.pbtxt": f'name: "{model}"'.encode()}


def test_a_model_that_is_a_link_or_has_a_version_more(sealed: Path, tmp_path: Path) -> None:
    write_repository(sealed, tmp_path / "one")
    before = snapshot(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "encoder").symlink_to(tmp_path / "one" / "encoder")
    with pytest.raises(OutputError, match="was not written by coda"):
        write_repository(sealed, tmp_path / "two")
    (tmp_path / "one" / "encoder" / "2").mkdir()
    with pytest.raises(OutputError, match="also has '2', which Triton might serve"):
        write_repository(sealed, tmp_path / "one")
    assert snapshot(tmp_path / "one") == before


def test_destinations_that_cannot_be(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file; expected the name of a folder"):
        check_destination(tmp_path / "file", sealed)
    with pytest.raises(OutputError, match="is not a folder or is read-only"):
        check_destination(tmp_path / "file" / "models", sealed)
    for repo in (sealed, sealed / "models", sealed.parent):
        with pytest.raises(OutputError, match="one inside the other"):
            check_destination(repo, sealed)
    with pytest.raises(OutputError, match="one inside the other"):
        check_destination(tmp_path / "bundle" / "models", tmp_path / "bundle")
    check_destination(tmp_path / "new" / "models", sealed)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(sealed: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="read-only"):
            check_destination(tmp_path / "models", sealed)
    finally:
        tmp_path.chmod(0o700)
