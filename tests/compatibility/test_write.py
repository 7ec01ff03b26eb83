"""write.py: every release has run it, it writes no version twice, and what it writes now is read like the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compatibility.versions import VERSIONS
from tests.compatibility.write import name_of_version, write

ROOT = Path(__file__).parents[2]
RELEASES = re.findall(r"^## \[(\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("version", dict.fromkeys(RELEASES))
def test_every_release_left_its_files(version: str) -> None:
    assert version in VERSIONS, "run `python -m tests.compatibility.write` on the commit of the release"


def test_a_version_is_not_written_again(tmp_path: Path) -> None:
    place = tmp_path / name_of_version()
    place.mkdir()
    with pytest.raises(SystemExit, match="is there already and stays as it is: raise the version first"):
        write(tmp_path)
    assert list(tmp_path.rglob("*")) == [place]


@pytest.mark.slow
def test_what_is_written_now_is_read(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX's builder is not installed")
    subprocess.run([sys.executable, "-m", "tests.compatibility.write", tmp_path], cwd=ROOT, check=True)
    files = sorted(path for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name)
    environment = {**os.environ, "CODA_COMPATIBILITY_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
