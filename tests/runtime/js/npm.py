"""npm for the tests: the package's own lock file, and nothing of the network but what it names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.runtime.js.bridge import PACKAGE, tool


def must(*command: object, folder: Path) -> str:
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(folder: Path) -> Path:
    """Copy the package to `folder` and install what it pins."""
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("node_modules"))
    must(tool("npm", "npm"), "ci", "--ignore-scripts", "--silent", "--no-audit", "--no-fund", folder=folder)
    return folder
