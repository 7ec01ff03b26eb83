"""What a message says to install is what was missing: in fresh environments, until nothing is missing any more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime import measurable
from tests.wheels.conftest import wheel
from tests.wheels.environment import LIMIT, ROOT, Environment

pytestmark = pytest.mark.slow

PHOTOGRAPHS = ROOT / "coda_deploy" / "photographs"
_ADVICE = re.compile(r"pip install .*$", re.MULTILINE)


class Reader:
    """Does what messages say, in an environment; `installed` are the commands that it ran."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment, self.folder, self.installed = environment, folder, list[str]()
        self._variables = {
            **environment.variables,
            "PATH": f"{environment.bin}{os.pathsep}{os.environ['PATH']}",
            # The tested versions, which a reader without a checkout does not have, and never another PyTorch.
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
            "HF_HUB_OFFLINE": "1",
            # Where PyTorch's own index is not reached, PyPI's torchvision comes, whose operators a CPU build lacks.
            "PYTHONPATH": str(ROOT / "tests" / "site"),
        }

    def follow(self, command: str) -> str:
        """Run `command` until no message asks for a package any more; return what it said last."""
        told = ""
        for _ in range(4):
            done = self._run(command)
            before, told = told, done.stderr
            advice = _ADVICE.findall(told)
            if done.returncode == 0 or not advice:
                assert "unexpected" not in told, told
                assert "Traceback" not in told, told
                return told
            assert told.count("\n") == 1, told
            assert told != before, f"{advice[-1]} changed nothing: {told}"
            installed = self._run(f"{advice[-1]} -q --disable-pip-version-check")
            assert installed.returncode == 0, installed.stderr
            self.installed.append(advice[-1])
        raise AssertionError(f"{command} still asks for more: {told}")

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )


def _named(commands: list[str]) -> set[str]:
    return {name for command in commands for name in re.findall(r"(?<=[ \"])([a-z_-]+)(?:\[[a-z]+\])?[=><]", command)}


def test_of_the_runtime(dist: Path, tmp_path: Path) -> None:
    measurable.make(tmp_path / "bundle")
    shutil.copytree(PHOTOGRAPHS, tmp_path / "photos")
    environment = Environment(sys.executable, tmp_path / "venv")
    environment.install(wheel(dist, "coda_runtime"))
    reader = Reader(environment, tmp_path)
    reader.follow("coda inspect bundle")
    assert _named(reader.installed) == {"click", "rich"}
    reader.follow("coda encode bundle photos --out tokens.npz")
    assert (tmp_path / "tokens.npz").is_file()
    assert _named(reader.installed[1:]) == {"onnxruntime", "pillow"}
    assert "HF_HUB_OFFLINE is set" in reader.follow("coda encode org/name photos --out other.npz")
    assert reader.installed[-1].split('"')[1].startswith("huggingface_hub")
    assert "there is no folder" in reader.follow("coda serve nothing")
    assert "kserve" in reader.installed[-1]
    reader.follow("coda tokenize bundle photos --out tokens")
    assert len(list((tmp_path / "tokens").glob("*.parquet"))) == 1
    assert _named(reader.installed[-1:]) == {"ray", "pyarrow"}  # huggingface_hub brought fsspec
    before = len(reader.installed)
    reader.follow("coda encode bundle photos --out openvino.npz --provider OpenVINOExecutionProvider")
    assert _named(reader.installed[before:]) == {"onnxruntime-ep-openvino"}
    before = len(reader.installed)
    reader.follow("coda encode bundle photos --out itself.npz --backend openvino")
    assert _named(reader.installed[before:]) == {"openvino"}


def _write_training(folder: Path, name: str, **sections: dict[str, object]) -> None:
    from tests.deploy.train import runs

    (folder / name).write_text(runs.config(**sections).to_toml(), encoding="utf-8")


def test_of_training_and_evaluation(dist: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the tokenizers of this test are made with PyTorch")
    from tests import tiny_tokenizers
    from tests.deploy.train import runs

    tiny_tokenizers.make().save_pretrained(tmp_path / "tokenizer")
    runs.make_vae().save_pretrained(tmp_path / "vae")
    runs.write_photos(tmp_path / "photos")
    environment = Environment(sys.executable, tmp_path / "venv")
    environment.install(wheel(dist, "coda_runtime"), wheel(dist, "coda_deploy"))
    reader = Reader(environment, tmp_path)

    def train(name: str, **sections: dict[str, object]) -> str:
        _write_training(tmp_path, f"{name}.toml", **sections)
        return reader.follow(f"coda train --config {name}.toml --vae vae --data photos --out {name}")

    names = {entry["name"] for entry in json.loads(environment.run("python", "-m", "pip", "list", "--format=json"))}
    triton = {"triton"} - names  # PyPI's PyTorch for Linux brings one
    missing: list[tuple[Callable[[], str], set[str], str]] = [
        (lambda: reader.follow("coda export tokenizer --out bundle"), {"onnxruntime"}, ""),
        (lambda: reader.follow("coda export tokenizer --out ptx --engine ptx"), triton, ""),
        (lambda: reader.follow("coda eval tokenizer --data photos"), {"scikit-image"}, ""),
        (lambda: reader.follow("coda eval tokenizer --data photos --lpips"), {"lpips", "torchvision"}, "weights"),
        (lambda: reader.follow("coda eval tokenizer --data photos --rfid"), {"torch-fidelity"}, "weights"),
        (lambda: train("board", save={"tracking": "tensorboard"}), {"tensorboard"}, ""),
        (lambda: reader.follow("coda train --config board.toml --vae vae --data hf:a/b --out d"), {"datasets"}, "hf:"),
        (lambda: train("judged", loss={"gan": 0.5}), {"timm"}, "DINO"),
    ]
    torch = environment.run("python", "-c", "import torch; print(torch.__version__)")
    for attempt, packages, last in missing:
        before = len(reader.installed)
        assert re.search(last, attempt())
        assert packages <= _named(reader.installed[before:]), reader.installed[before:]
    assert environment.run("python", "-c", "import torch; print(torch.__version__)") == torch
