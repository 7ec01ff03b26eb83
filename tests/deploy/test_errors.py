"""The errors of coda_deploy: under the one root, drawn, exported, and there without PyTorch."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

import pytest

import coda_deploy
from coda_deploy import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_under_the_root_drawn_and_public(name: str) -> None:
    assert issubclass(getattr(errors, name), coda_deploy.CodaError)
    assert f"─ {name} " in (errors.__doc__ or "")
    assert getattr(coda_deploy, name) is getattr(errors, name)


@pytest.mark.parametrize(
    "error",
    [
        errors.StoppedError(signal.SIGTERM, "saved at step 3"),
        errors.DivergedError.at(1, "the loss", ["a.jpg"], None),
        *(getattr(errors, name)("what was found") for name in errors.__all__ if name != "StoppedError"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_in_another_process(error: coda_deploy.CodaError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), vars(found)) == (str(error), vars(error))


def test_no_module_defines_an_error_of_its_own() -> None:
    code = (
        "import pkgutil, importlib, coda_deploy, coda_runtime.errors as e\n"
        "for m in pkgutil.walk_packages(coda_deploy.__path__, 'coda_deploy.'):\n"
        "    if '.recipe' not in m.name: importlib.import_module(m.name)\n"
        "def below(kind): return {kind}.union(*map(below, kind.__subclasses__()))\n"
        "print(sorted({k.__module__ for k in below(e.CodaError)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "['coda_deploy.errors', 'coda_runtime.errors']\n"), done.stderr


def test_they_need_no_pytorch() -> None:
    code = "import sys; from coda_deploy import ConfigError, DataError, WeightsError; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
