"""`pytest benchmarks/test_stages.py`, as whoever times a bundle types it, without the timing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("asked", "passed", "skipped"),
    [
        (("--precision", "fp32", "--device", "cpu", "--backend", "onnxruntime"), 5, 0),
        (("--backend", "tensorrt"), 0, 9),
    ],
)
def test_stages_are_loaded_as_asked(tiny_bundle: Path, asked: tuple[str, ...], passed: int, skipped: int) -> None:
    """Three parts and two operations; what cannot run here is skipped with the reason, and nothing fails."""
    command = [sys.executable, "-m", "pytest", "benchmarks/test_stages.py", "--bundle", str(tiny_bundle), *asked]
    done = subprocess.run(
        [*command, "-k", "part or whole", "--benchmark-disable"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    told = [f"{count} {word}" for count, word in ((passed, "passed"), (skipped, "skipped")) if count]
    assert all(text in done.stdout.splitlines()[-1] for text in told), done.stdout
    assert "failed" not in done.stdout
    if skipped:
        assert "tensorrt" in done.stdout
