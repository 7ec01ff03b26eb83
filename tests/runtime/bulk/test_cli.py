"""`coda tokenize` in a process: help, wrong usage, failures in one line. Whole runs are in test_killed.py."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coda_runtime.cli.tokenize import _reporting
from tests.runtime.bulk.conftest import save_images


def coda(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "coda_runtime.cli", "tokenize", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_help() -> None:
    done = coda("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "coda tokenize bundle photos/ --out tokens" in done.stdout
    assert "errors.jsonl" in done.stdout


def test_usage() -> None:
    done = coda("bundle", "photos")
    assert done.returncode == 2
    assert "--out" in done.stderr


@pytest.mark.parametrize(
    ("bundle", "arguments", "told"),
    [
        ("nowhere", (), "there is no folder 'nowhere'"),
        (None, ("--precision", "fp8"), "precision is 'fp8'"),
        (None, ("--label", "cls"), "label is 'cls'"),
    ],
)
def test_failures(sealed: Path, tmp_path: Path, bundle: str | None, arguments: tuple[str, ...], told: str) -> None:
    save_images(tmp_path / "photos", 1)
    done = coda(bundle or sealed, tmp_path / "photos", "--out", tmp_path / "out", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert not (tmp_path / "out").exists()


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar begins with what earlier runs did; the rate is from the first result on."""
    steps: list[float] = []
    words: list[str] = []

    class Bar:
        def advance(self, count: float) -> None:
            steps.append(count)

        def describe(self, text: str) -> None:
            words.append(text)

    @contextlib.contextmanager
    def progress(text: str, total: float) -> Iterator[Bar]:
        words.append(f"{text} {total}")
        yield Bar()

    clock = iter([90.0, 95.0, 100.0, 102.0, 104.0, 170.0])
    monkeypatch.setattr("coda_runtime.cli.tokenize.progress", progress)
    monkeypatch.setattr("coda_runtime.cli.tokenize.time.monotonic", lambda: next(clock))
    with _reporting() as report:
        for done in (50, 60, 70, 100, 200):
            report(done, 300)
    assert sum(steps) == 200
    rates = [f"tokenizing, {rate:.1f} images/s" for rate in (5, 10, 2)]
    assert words == ["starting Ray and the engines 300", "tokenizing", *rates]
    told = "resuming: 50 of 300 images done\n200 of 300 images, 2.0 images/s, 0:00:50 left\n"
    assert capsys.readouterr().err == told


def test_ctrl_c_says_that_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        with _reporting() as report:
            report(0, 300)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert capsys.readouterr().err == "stopped; run the same command again to resume from the finished shards\n"


def test_a_cluster_that_is_not_there(sealed: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "photos", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = coda(sealed, tmp_path / "photos", "--out", tmp_path / "out", "--address", address)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: there is no Ray cluster at '{address}'")
