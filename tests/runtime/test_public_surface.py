from __future__ import annotations

import os
import subprocess
import sys

import pytest

import coda_runtime


def _python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_names_are_there() -> None:
    for name in coda_runtime.__all__:
        assert getattr(coda_runtime, name) is not None
    assert dir(coda_runtime) == sorted(coda_runtime.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = coda_runtime.nothing  # type: ignore[attr-defined]


def test_importing_everything_public_imports_nothing_heavy() -> None:
    heavy = "{'torch','onnx','onnxruntime','PIL','click','rich','huggingface_hub'}"
    code = f"import sys; from coda_runtime import *; load; print(sorted({heavy} & set(sys.modules)))"
    assert _python(code) == "[]"


def test_importing_the_package_alone_leaves_even_its_own_modules_out() -> None:
    code = "import sys, coda_runtime; print(sorted(m for m in sys.modules if m.startswith('coda_runtime')))"
    alone = ["coda_runtime", "coda_runtime.errors", "coda_runtime.lazy_names", "coda_runtime.requirements"]
    assert _python(code) == str(alone)


def test_loading_a_bundle_imports_the_engine_and_no_torch(sealed: object) -> None:
    code = (
        f"import sys, coda_runtime; coda_runtime.load({str(sealed)!r}); "
        "print('onnxruntime' in sys.modules, 'torch' in sys.modules, 'PIL' in sys.modules)"
    )
    assert _python(code) == "True False False"
