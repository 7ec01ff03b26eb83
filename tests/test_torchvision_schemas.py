"""What the rest of the tests stand on: torchvision imports here, and nothing is loaded before it is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests import torchvision_schemas

ROOT = Path(__file__).parents[1]


def python(code: str, *options: str) -> str:
    # Without `site`, so that nothing else in site-packages has a hand in it; what `site` would do is done in the code.
    paths = [torchvision_schemas.environment()["PYTHONPATH"], sysconfig.get_paths()["purelib"]]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-S", *options, "-c", f"import sys, sitecustomize; {code}"]
    done = subprocess.run(command, env=env, cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_imports_in_a_child_process() -> None:
    code = "import torchvision, torch; print(torch.ops.torchvision.nms is not None, torchvision.models.vgg16.__name__)"
    assert python(code) == "True vgg16"


def test_a_child_that_does_not_need_it_loads_nothing() -> None:
    assert python("print('torch' in sys.modules, 'torchvision_schemas' in sys.modules)") == "False False"


def test_operators_that_load_are_left_alone() -> None:
    # As where torchvision's library fits: its own look says that the operators are there, so none is declared.
    code = (
        "import importlib.util, types; "
        "sys.modules['torchvision.extension'] = types.SimpleNamespace(_has_ops=lambda: True); "
        "[f.find_spec('torchvision._meta_registrations', ['nowhere']) for f in sys.meta_path[:1]]; "
        "print('torch' in sys.modules)"
    )
    assert python(code) == "False"


def test_installing_twice_is_installing_once() -> None:
    before = list(sys.meta_path)
    torchvision_schemas.install()
    assert sys.meta_path == before


def test_the_environment_keeps_what_was_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/one", "/two"]))
    site, *rest = torchvision_schemas.environment()["PYTHONPATH"].split(os.pathsep)
    assert (Path(site) / "sitecustomize.py").is_file()
    assert rest == ["/one", "/two"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([site, "/one"]))
    assert torchvision_schemas.environment()["PYTHONPATH"] == os.pathsep.join([site, "/one"])
