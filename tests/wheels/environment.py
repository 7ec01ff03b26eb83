"""A virtual environment made for a test: it sees what is installed into it, and nothing of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = "CODA_TEST_PYTHONS"
LIMIT = 1200.0
"""Seconds for an installation, which may bring PyTorch, or for a command."""


def interpreters() -> list[str]:
    """Return the Pythons that wheels are installed for: what the variable names, or the oldest and a newer one."""
    asked = os.environ.get(PYTHONS, "")
    return [name for name in asked.split(os.pathsep) if name] or ["python3.11", "python3.13"]


def problem(python: str) -> str | None:
    """Return why this interpreter cannot be used, or None. A name on PATH may stand for one that is not installed."""
    found = shutil.which(python)
    if found is None:
        return f"{python} is not on PATH; {PYTHONS} may name others, separated by {os.pathsep!r}"
    told = subprocess.run([found, "-c", "import venv"], capture_output=True, text=True, timeout=60, check=False)
    return None if told.returncode == 0 else f"{found} does not run: {told.stderr.strip().splitlines()[:1]}"


class Environment:
    """The environment in `folder`, which is also where its commands run."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        self._caller = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.variables = {**self._caller, "XDG_CACHE_HOME": str(folder / "cache")}
        subprocess.run([python, "-m", "venv", folder], timeout=LIMIT, check=True)

    def install(self, *requirements: str) -> None:
        pip = [self.bin / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        command = [*pip, "-c", ROOT / "constraints.txt", *requirements]
        # With the caller's cache, which holds what was downloaded before.
        subprocess.run(command, cwd=self.folder, env=self._caller, stdin=subprocess.DEVNULL, timeout=LIMIT, check=True)

    def run(self, command: str, *arguments: object) -> str:
        """Run one of the environment's programs, which has to succeed; return what it printed."""
        done = subprocess.run(
            [self.bin / command, *map(str, arguments)],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout
