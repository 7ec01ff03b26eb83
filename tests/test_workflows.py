"""The workflows of the public CI: form, safety, and what they name that stands elsewhere. Nothing runs them here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def check(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    found: dict[str, Any] = parsed["jobs"]
    return found


def test_their_form() -> None:
    form = ("--builtin-schema", "vendor.github-workflows")
    check(sys.executable, "-m", "check_jsonschema", *form, *WORKFLOWS)


def test_their_safety() -> None:
    """Unpinned actions, permissions that are not needed, code in expressions, caches in a release."""
    check(Path(sys.executable).with_name("zizmor"), "--offline", "--no-progress", *WORKFLOWS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_a_commit_and_tells_its_version(path: Path) -> None:
    uses = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    remote = [line for line in uses if not line.startswith("./")]
    assert remote
    assert [line for line in remote if not re.fullmatch(r"[\w/.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_ends(path: Path) -> None:
    for name, job in jobs(path.name).items():
        assert "uses" in job or job["timeout-minutes"] <= 120, name


def test_the_pythons_are_those_of_the_classifiers() -> None:
    head = "Programming Language :: Python :: "
    manifest = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))
    claimed = [line.removeprefix(head) for line in manifest["project"]["classifiers"] if line.startswith(f"{head}3.")]
    assert jobs("ci.yml")["runtime"]["strategy"]["matrix"]["python"] == claimed


def test_the_runtime_goes_first() -> None:
    """coda-deploy asks for exactly the coda-runtime of its own version."""
    release = jobs("release.yml")
    assert release["publish-deploy"]["needs"] == "publish-runtime"
    assert release["publish-runtime"]["needs"] == "attest"
    assert release["attest"]["needs"] == "checks"
