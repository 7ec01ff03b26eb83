"""Names of the package are loaded on first use, and know each other from the start."""

from __future__ import annotations

import subprocess
import sys

import pytest

import coda_deploy
import coda_deploy.tokenizer


@pytest.mark.parametrize("package", [coda_deploy, coda_deploy.tokenizer])
def test_all_names_are_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert dir(package) == sorted(names)
    assert all(getattr(package, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing  # type: ignore[attr-defined]


def test_published_names_are_known_whatever_is_imported_first() -> None:
    code = (
        "import sys; from coda_deploy.tokenizer.source import has_scheme; "
        "print(has_scheme('official:flux_v65536'), has_scheme('flux_v65536'), 'coda_deploy.official' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False", "False"]
