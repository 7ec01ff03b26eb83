"""Wheels that were carried to a machine without registries: joined, installed beside what is there, put on the path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_PART = re.compile(r"(?P<name>.+\.whl)\.?(?P<number>[a-z]{2,3}|\d+|part.+)")
_MARK = "CODA_GPU_SITE"
BEGUN = "CODA_GPU_BEGUN"
"""When the call began, in seconds since 1970: installing counts towards its budget."""


def join(folders: Sequence[Path], out: Path) -> list[Path]:
    """Whole wheels of ``folders`` and those whose parts (``NAME.whl.aa``, ``.ab``, ...) lie there, in ``out``.

    Parts may be spread over several folders; they are joined in the order of their names.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Path]] = {}
    for file in sorted(file for folder in folders for file in folder.iterdir() if file.is_file()):
        found = _PART.fullmatch(file.name)
        if found is not None:
            parts.setdefault(found["name"], {})[found["number"]] = file
        elif file.suffix == ".whl":
            shutil.copyfile(file, out / file.name)
    for name, files in parts.items():
        with (out / name).open("wb") as whole:
            for _, file in sorted(files.items()):
                with file.open("rb") as part:
                    shutil.copyfileobj(part, whole)
    return sorted(out.glob("*.whl"))


def ensure(folders: Sequence[Path], work: Path) -> None:
    """Install the wheels into ``work``/site, and start this process again with it on the path, before all else."""
    os.environ.setdefault(BEGUN, str(time.time()))
    if not folders or _MARK in os.environ:
        return
    site = work / "site"
    for wheel in join(folders, work / "wheels"):  # one by one: a wheel that does not fit must not stop the others
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir",
             "--upgrade", "--target", site, wheel],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(f"{wheel.name}: {'installed' if done.returncode == 0 else (done.stderr or done.stdout).strip()[-300:]}")
    sys.stdout.flush()
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, _MARK: str(site)}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:]], environment)  # noqa: S606
