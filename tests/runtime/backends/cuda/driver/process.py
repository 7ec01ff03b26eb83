"""Tests marked `driver`, or with that fixture, run in a process that finds the stand-in as its driver.

There is one process for a module's tests. Their reports are taken over, so that each is a test like any other, with
its name, its output and its time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import INSIDE, environment, missing

_REPORTS = "CODA_TESTS_REPORTS"
_TIMEOUT = 600  # seconds for a module: far more than any takes, so that a deadlock ends
_done: dict[Path, dict[str, list[pytest.TestReport]]] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that steer the stand-in, directly or through another fixture."""
    for item in items:
        if "driver" in getattr(item, "fixturenames", ()):
            item.add_marker("driver")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Report what the test's own process said of it; where there can be none, the fixture `driver` skips it."""
    if item.get_closest_marker("driver") is None or INSIDE in os.environ or missing() is not None:
        return None
    if item.path not in _done:
        _done[item.path] = _run(item)
    reports = _done[item.path].get(item.nodeid, [])
    if not reports or reports[-1].when != "teardown":
        reports.append(_lost(item))
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What the test before shares with this one was kept for it, and is not needed further on.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def _run(item: pytest.Item) -> dict[str, list[pytest.TestReport]]:
    """Run all tests of the module that are marked, and return their reports by the tests' ids."""
    config = item.config
    wanted = [
        other.nodeid
        for other in item.session.items
        if other.path == item.path and other.get_closest_marker("driver") is not None
    ]
    factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
    folder = factory.mktemp("driver")
    told = folder / "reports.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", __name__, "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [f"--rootdir={config.rootpath}", f"--basetemp={folder / 'temporary'}", *wanted]
    env = environment(**{_REPORTS: str(told)})
    for name in [name for name in env if name.startswith("PYTEST_")]:  # of xdist's workers
        del env[name]
    log = folder / "output.txt"
    with log.open("w") as output:
        try:
            subprocess.run(
                command, cwd=config.rootpath, env=env, stdout=output, stderr=output, check=False, timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            output.write(f"ended after {_TIMEOUT} s")
    found: dict[str, list[pytest.TestReport]] = {}
    for line in told.read_text().splitlines() if told.exists() else []:
        report = config.hook.pytest_report_from_serializable(config=config, data=json.loads(line))
        if isinstance(report.longrepr, list):  # where and why it was skipped; JSON has no tuples
            report.longrepr = tuple(report.longrepr)
        found.setdefault(report.nodeid, []).append(report)
    _output[item.path] = log.read_text(errors="replace")[-8000:]
    return found


_output: dict[Path, str] = {}


def _lost(item: pytest.Item) -> pytest.TestReport:
    text = f"the process of the module's tests ended before this one did:\n{_output[item.path]}"
    return pytest.TestReport(
        item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", longrepr=text, when="call"
    )


class _Writer:
    """In the tests' own process: writes the reports down."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config = config
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data: Any = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._file.open("a") as file:
            file.write(json.dumps(data) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Where this module is loaded as a plugin, in the tests' own process."""
    if _REPORTS in os.environ and not config.pluginmanager.has_plugin("driver-reports"):
        config.pluginmanager.register(_Writer(config, Path(os.environ[_REPORTS])), "driver-reports")
