"""Packages whose names are imported at their first use: every one is there, and no other."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = ["coda_runtime", "coda_runtime.bulk", "coda_runtime.triton"]


@pytest.mark.parametrize("package", [*PACKAGES, "coda_deploy", "coda_deploy.tokenizer"])
def test_every_public_name_is_there_and_no_other(package: str) -> None:
    module = import_module(package)
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is vars(module)[name], "imported once"
    with pytest.raises(AttributeError, match=rf"^module '{package}' has no attribute 'tokeniser'$"):
        _ = module.tokeniser


@pytest.mark.parametrize("package", PACKAGES)
def test_they_are_not_imported_before(package: str) -> None:
    code = (
        f"import sys, {package} as it; print(*(it.__name__ + '.' + name in sys.modules for name in it._LAZY.values()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"False"}
