"""Help is at hand at once: no command of coda-deploy imports PyTorch for it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "onnx", "onnxruntime", "PIL")
PLUGINS = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["entry-points"]
# In a process of its own: here all of them are imported long ago.
SHOW = f"""
import sys
from importlib import import_module
module, _, name = sys.argv.pop(1).partition(":")
try:
    getattr(import_module(module), name)(sys.argv[1:])
finally:
    print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""


def shown(command: str, *arguments: str) -> tuple[str, str]:
    run = [sys.executable, "-c", SHOW, PLUGINS["coda.commands"][command], *arguments]
    text = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout
    told, _, heavy = text.rpartition("heavy: ")
    return told, heavy.strip()


@pytest.mark.parametrize("name", sorted(PLUGINS["coda.commands"]))
def test_help_imports_nothing_heavy(name: str) -> None:
    told, heavy = shown(name, "--help")
    assert "Example:" in told
    assert heavy == "[]"


def test_nor_does_a_configuration_that_is_only_shown() -> None:
    told, heavy = shown("train", "--config", "sample", "--show-config")
    assert tomllib.loads(told)["tokenizer"]["variant"] == "sample"
    assert heavy == "[]"
