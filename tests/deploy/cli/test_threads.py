"""Commands that compute with PyTorch keep to a container's CPU quota, which PyTorch does not look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from coda_deploy.cli import demo, export, verify
from coda_deploy.evaluate.devices import torch_threads
from coda_runtime.errors import InputError
from coda_runtime.machine import processors


def run_export(folder: Path) -> None:
    CliRunner().invoke(export.command, ["tokenizer", "--out", str(folder)], catch_exceptions=True)


def run_demo(folder: Path) -> None:
    CliRunner().invoke(demo.command, ["--out", str(folder)], catch_exceptions=True)


def run_verify(folder: Path) -> None:
    with pytest.raises(InputError, match="seen"):
        verify.parity(folder, "tokenizer")


@pytest.mark.parametrize(
    ("run", "function"),
    [
        (run_export, "coda_deploy.export.export_tokenizer"),
        (run_demo, "coda_deploy.demo.run_demo"),
        (run_verify, "coda_deploy.export.verify_parity"),
    ],
)
def test_threads_of_the_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Callable[[Path], None], function: str
) -> None:
    seen = []

    def watch(*_: object, **__: object) -> None:
        seen.append(torch.get_num_threads())
        raise InputError("seen")

    monkeypatch.setattr(processors, "cpu_quota", lambda: 2.0)
    monkeypatch.setattr(processors, "_count_cores", lambda _: 8)
    monkeypatch.setattr(function, watch)
    with torch_threads(4):
        run(tmp_path / "out")
        assert torch.get_num_threads() == 4
    assert seen == [2]
